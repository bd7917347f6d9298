"""Define types of strings that one side writes and the other shows.

A writer is refused a name that a terminal would obey. A record that is on the broker already, from another version or
somebody hostile, is read as it is, with READING as the context, and cleaned where it is shown.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, TypeAdapter, ValidationError, ValidationInfo

from ltx_client.protocol.text import is_printable, printable, shown

__all__ = ["READING", "Cleaned", "Name", "Sentence", "check_name", "first_error", "parse_tagged"]

T = TypeVar("T")

READING: dict[str, Any] = {"reading": True}
LONGEST = 200
"""Characters of either part of an error: a name in the data may be as long as the data."""


def check_name(value: str) -> str:
    """Return a name if it is safe for a terminal.

    Raises:
        ValueError: It contains control characters.
    """
    if not is_printable(value):
        raise ValueError("it has control characters in it, such as a line break or an escape sequence; leave them out")
    return value


def first_error(error: ValidationError) -> str:
    """Return the place and the kind of the first error in one line, without the invalid value."""
    detail = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(printable(str(part)[:LONGEST]) for part in detail["loc"])
    return f"{where[:LONGEST] or 'all of it'}: {printable(detail['msg'][:LONGEST])}"


def parse_tagged(adapter: TypeAdapter[T], data: bytes | str) -> T | None:
    """Return the record of a tagged union in `data`, or None if its tag belongs to a newer version.

    Raises:
        ValueError: The data is damaged; the message says how, in a line.
    """
    try:
        return adapter.validate_json(data, context=READING)
    except ValidationError as error:
        if any(detail["type"] == "union_tag_invalid" for detail in error.errors()):
            return None
        raise ValueError(first_error(error)) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(type(error).__name__) from error


def _check(value: str, info: ValidationInfo) -> str:
    return value if info.context is READING else check_name(value)


Name = Annotated[str, AfterValidator(_check)]
"""The name of a person, a worker, a variant or a file."""
Cleaned = Annotated[str, AfterValidator(printable)]
"""A name that is only shown to people."""
Sentence = Annotated[str, AfterValidator(shown)]
"""What happened, possibly in a library's words: neither secrets of its writer nor controls reach the broker."""
