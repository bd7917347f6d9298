"""What to do while Redis is away: wait, for a render must not be lost for a broker's restart."""

from __future__ import annotations

import threading

import redis
from tenacity import (
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_when_event_set,
    wait_exponential,
)

__all__ = ["AWAY", "until_redis_answers"]

AWAY = (redis.ConnectionError, redis.TimeoutError)


def until_redis_answers(give_up: threading.Event) -> Retrying:
    """Tries again while Redis is away, up to 5 s apart. Once `give_up` is set, the last error is raised."""
    return Retrying(
        retry=retry_if_exception_type(AWAY),
        wait=wait_exponential(multiplier=0.2, max=5),
        stop=stop_when_event_set(give_up),
        sleep=sleep_using_event(give_up),
        reraise=True,
    )
