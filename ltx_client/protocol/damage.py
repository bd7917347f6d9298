"""What is wrong with data that somebody else has written, in a few words for a person; and keys that are set aside."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import redis
from pydantic import ValidationError

from ltx_client.protocol.outages import error_code
from ltx_client.protocol.text import printable

__all__ = ["first_error", "is_wrong_type", "read_or", "tell_once"]

log = logging.getLogger(__name__)

LONGEST = 200
"""Characters of either part: a name in the data may be as long as the data."""


def first_error(error: ValidationError) -> str:
    """Where the first error is, and what it is: one line, without what stood there."""
    detail = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(printable(str(part)[:LONGEST]) for part in detail["loc"])
    return f"{where[:LONGEST] or 'all of it'}: {printable(detail['msg'][:LONGEST])}"


def is_wrong_type(reply: object) -> bool:
    """Return whether an error reply says that a key holds another kind of value than it should."""
    return isinstance(reply, redis.ResponseError) and error_code(reply) == "WRONGTYPE"


def read_or(default: Any, key: str, read: Callable[[], Any]) -> Any:
    """Return what `read` returns of a key; `default` where the key holds another kind of value, which is said once."""
    try:
        return read()
    except redis.ResponseError as error:
        if not is_wrong_type(error):
            raise
        tell_once(f"the key {key} is set aside: it holds another kind of value than it should")
        return default


@functools.lru_cache(maxsize=1000)
def tell_once(text: str) -> None:
    """Log a warning, the first time that it is given in this process."""
    log.warning("%s", text)
