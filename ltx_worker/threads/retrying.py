"""Tries again while something is away, for a render must not be lost for a broker's restart."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

import redis
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_delay,
    stop_any,
    stop_when_event_set,
    wait_exponential,
)

from ltx_client.shared.broker.outages import is_outage
from ltx_client.shared.unexpected_data import is_wrong_type
from ltx_worker.threads.watched import THREADS

__all__ = ["patiently", "until_redis_answers"]

REFUSED_FOR = 15.0
"""Seconds that a write is sent again after an error reply that does not mean "not now"."""


def patiently(
    errors: tuple[type[Exception], ...] | Callable[[BaseException], bool],
    give_up: threading.Event,
    seconds: float = math.inf,
) -> Retrying:
    """Return a retry loop for such errors, with tries up to 5 s apart.

    After so many seconds, or once `give_up` is set, the last error is raised.
    """
    return Retrying(
        retry=retry_if_exception(errors) if callable(errors) else retry_if_exception_type(errors),
        wait=wait_exponential(multiplier=0.2, max=5),
        stop=stop_any(stop_when_event_set(give_up), stop_after_delay(seconds)),
        sleep=sleep_using_event(give_up),
        before_sleep=_note,
        reraise=True,
    )


def until_redis_answers(give_up: threading.Event) -> Retrying:
    """Try again while Redis is away or refuses for now; after any other error reply, for a while only."""
    patience = _Patience()
    return patiently(patience, give_up)


class _Patience:
    """Tells whether to try again: always in an outage; for REFUSED_FOR seconds in a row after other error replies."""

    def __init__(self) -> None:
        self._refused_since: float | None = None

    def __call__(self, error: BaseException) -> bool:
        if is_outage(error):
            self._refused_since = None
            return True
        if not isinstance(error, redis.RedisError) or is_wrong_type(error):
            return False
        now = time.monotonic()
        self._refused_since = self._refused_since or now
        return now - self._refused_since < REFUSED_FOR


def _note(attempt: RetryCallState) -> None:
    """Count the error in the thread that waits, which is at work meanwhile."""
    if attempt.outcome is not None and (error := attempt.outcome.exception()) is not None:
        THREADS.note(error)
