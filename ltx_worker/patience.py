"""What to do while something is away: wait and try again, for a render must not be lost for a broker's restart."""

from __future__ import annotations

import math
import threading

import redis
from tenacity import (
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_delay,
    stop_any,
    stop_when_event_set,
    wait_exponential,
)

__all__ = ["AWAY", "patiently", "until_redis_answers"]

AWAY = (redis.ConnectionError, redis.TimeoutError)
"""What redis-py raises when Redis does not answer."""


def patiently(errors: tuple[type[Exception], ...], give_up: threading.Event, seconds: float = math.inf) -> Retrying:
    """Tries again after these errors, up to 5 s apart, for so many seconds; then, or once `give_up` is set, the last
    one is raised.
    """
    return Retrying(
        retry=retry_if_exception_type(errors),
        wait=wait_exponential(multiplier=0.2, max=5),
        stop=stop_any(stop_when_event_set(give_up), stop_after_delay(seconds)),
        sleep=sleep_using_event(give_up),
        reraise=True,
    )


def until_redis_answers(give_up: threading.Event) -> Retrying:
    """Tries again while Redis is away."""
    return patiently(AWAY, give_up)
