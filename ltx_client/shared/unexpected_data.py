"""What is wrong with data that somebody else has written, in a few words for a person; and keys that are set aside."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import redis

from ltx_client.shared.broker.exchange import Exchange, ask
from ltx_client.shared.broker.outages import error_code

__all__ = ["ask_or", "is_wrong_type", "read_or", "tell_once"]

log = logging.getLogger(__name__)


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
        tell_once(_set_aside(key))
        return default


def ask_or(default: Any, key: str, method: str, *arguments: Any) -> Exchange[Any]:
    """Send a command that reads a key. Return its answer; `default` as `read_or`."""
    try:
        return (yield from ask(method, key, *arguments))
    except redis.ResponseError as error:
        if not is_wrong_type(error):
            raise
        tell_once(_set_aside(key))
        return default


def _set_aside(key: str) -> str:
    return f"the key {key} is set aside: it holds another kind of value than it should"


@functools.lru_cache(maxsize=1000)
def tell_once(text: str) -> None:
    """Log a warning, the first time that it is given in this process."""
    log.warning("%s", text)
