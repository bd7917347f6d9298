"""Describe damaged data that somebody else has written, and ignore keys of the wrong type."""

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
    """Return whether an error reply says that a key has a value of the wrong type."""
    return isinstance(reply, redis.ResponseError) and error_code(reply) == "WRONGTYPE"


def read_or(default: Any, key: str, read: Callable[[], Any]) -> Any:
    """Return what `read` returns for a key; `default`, with one warning, if the key has a value of the wrong type."""
    try:
        return read()
    except redis.ResponseError as error:
        if not is_wrong_type(error):
            raise
        tell_once(_ignored(key))
        return default


def ask_or(default: Any, key: str, method: str, *arguments: Any) -> Exchange[Any]:
    """Send a command that reads a key. Return its answer; `default` as `read_or`."""
    try:
        return (yield from ask(method, key, *arguments))
    except redis.ResponseError as error:
        if not is_wrong_type(error):
            raise
        tell_once(_ignored(key))
        return default


def _ignored(key: str) -> str:
    return f"the key {key} is ignored: it has a value of the wrong type"


@functools.lru_cache(maxsize=1000)
def tell_once(text: str) -> None:
    """Log a warning, the first time that it occurs in this process."""
    log.warning("%s", text)
