"""Which errors of the broker mean "not now": the same may work later, so it is tried again, or told as an outage."""

from __future__ import annotations

import redis

__all__ = ["is_outage"]

NOT_NOW = frozenset(
    {
        "BUSY",
        "CLUSTERDOWN",
        "LOADING",
        "MASTERDOWN",
        "MISCONF",
        "NOAUTH",
        "NOPERM",
        "NOREPLICAS",
        "OOM",
        "READONLY",
        "TRYAGAIN",
        "WRONGPASS",
    }
)
"""Codes with which a server refuses a command that it takes at other times, or that an operator can have it take."""


def is_outage(error: BaseException) -> bool:
    """Return whether the broker does not answer, or answers that it cannot do this now."""
    if isinstance(error, redis.ConnectionError | redis.TimeoutError):
        return True
    return isinstance(error, redis.ResponseError) and _code(error) in NOT_NOW


def _code(error: redis.ResponseError) -> str:
    """Return the code of an error reply, such as OOM; redis-py takes it off the text of the kinds that it knows."""
    return getattr(error, "status_code", None) or str(error).partition(" ")[0]
