"""What is wrong with data that somebody else has written, in a few words for a person."""

from __future__ import annotations

from pydantic import ValidationError

from ltx_client.protocol.text import printable

__all__ = ["first_error"]

LONGEST = 200
"""Characters of either part: a name in the data may be as long as the data."""


def first_error(error: ValidationError) -> str:
    """Where the first error is, and what it is: one line, without what stood there."""
    detail = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(printable(str(part)[:LONGEST]) for part in detail["loc"])
    return f"{where[:LONGEST] or 'all of it'}: {printable(detail['msg'][:LONGEST])}"
