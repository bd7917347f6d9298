"""The farm's one clock, the broker's: what workers stamp their reports with, and what ages are reckoned by.

Machines' own clocks may be hours or weeks apart. What is measured is how far the broker's clock is from this machine's
monotonic one, which nobody sets.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import redis

__all__ = ["CLOCK", "Clock"]

TOLERANCE = 0.05
"""Seconds by which a new measurement must differ, besides its own uncertainty, to count: else times would jitter."""
HOLDS = 5.0
"""Seconds that a measurement holds: a machine that slept must measure anew."""


class Clock:
    """The broker's clock, as far as it was measured; until then this machine's."""

    def __init__(self) -> None:
        self._ahead: float | None = None
        self._measured_at = (-HOLDS, -HOLDS)

    def now(self) -> float:
        """Seconds since 1970."""
        return time.time() if self._ahead is None else time.monotonic() + self._ahead

    def measure(self, client: redis.Redis) -> None:
        """Asks the broker, if it was not just asked. Raises redis.RedisError."""
        wall, began = time.time(), time.monotonic()
        if all(0 <= now - then < HOLDS for now, then in zip((wall, began), self._measured_at, strict=True)):
            return
        reply: Any = client.time()
        seconds, microseconds = reply
        ended = time.monotonic()
        ahead = seconds + microseconds / 1e6 - (began + ended) / 2
        if self._ahead is None or abs(ahead - self._ahead) > (ended - began) / 2 + TOLERANCE:
            self._ahead = ahead
        self._measured_at = wall, began


CLOCK = Clock()
"""By which this process stamps the events that it makes: a worker measures it with each heartbeat."""
