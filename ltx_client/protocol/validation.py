"""Types of what one side writes and the other shows.

Who makes a record is refused a name that a terminal would obey. A record that is on the broker already, from another
version or somebody hostile, is read as it is, with READING as the context, and cleaned where it is shown.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, ValidationError, ValidationInfo

from ltx_client.protocol.text import is_printable, printable, shown

__all__ = ["READING", "Cleaned", "Name", "Sentence", "check_name", "first_error"]

READING: dict[str, Any] = {"reading": True}
LONGEST = 200
"""Characters of either part of an error: a name in the data may be as long as the data."""


def check_name(value: str) -> str:
    """Return a name that a terminal can be given. Raises ValueError."""
    if not is_printable(value):
        raise ValueError("it has control characters in it, such as a line break or an escape sequence; leave them out")
    return value


def first_error(error: ValidationError) -> str:
    """Where the first error is, and what it is: one line, without what stood there."""
    detail = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(printable(str(part)[:LONGEST]) for part in detail["loc"])
    return f"{where[:LONGEST] or 'all of it'}: {printable(detail['msg'][:LONGEST])}"


def _check(value: str, info: ValidationInfo) -> str:
    return value if info.context is READING else check_name(value)


Name = Annotated[str, AfterValidator(_check)]
"""Of a person, a worker, a variant, a file."""
Cleaned = Annotated[str, AfterValidator(printable)]
"""A name that is for people alone."""
Sentence = Annotated[str, AfterValidator(shown)]
"""What happened, in words that may be a library's: neither secrets of its writer nor controls reach the broker."""
