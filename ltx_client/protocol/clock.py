"""Keep the farm's one clock, the broker's: workers stamp their reports with it, and ages are measured by it.

Machines' own clocks may be hours or weeks apart. What is measured is how far the broker's clock is from this machine's
monotonic clock, which nobody sets.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import redis

__all__ = ["CLOCK", "Clock"]

TOLERANCE = 0.05
"""Seconds by which a new measurement must differ, besides its own uncertainty, to be used; else times would jitter."""
HOLDS = 5.0
"""Seconds for which a measurement is valid: a machine that slept must measure again."""


class Clock:
    """The broker's clock as last measured; this machine's clock until the first measurement."""

    def __init__(self) -> None:
        self._ahead: float | None = None
        self._measured_at = (-HOLDS, -HOLDS)

    def now(self) -> float:
        """Return the time in seconds since 1970."""
        return time.time() if self._ahead is None else time.monotonic() + self._ahead

    def measure(self, client: redis.Redis) -> None:
        """Ask the broker, if it was not just asked. Raise redis.RedisError."""
        if self.is_due():
            asked_at = time.time(), time.monotonic()
            reply: Any = client.time()
            self.take(reply, asked_at)

    def is_due(self) -> bool:
        """Return whether the broker is to be asked, since it was not just asked."""
        asked_at = time.time(), time.monotonic()
        return not all(0 <= now - then < HOLDS for now, then in zip(asked_at, self._measured_at, strict=True))

    def take(self, reply: tuple[int, int], asked_at: tuple[float, float]) -> None:
        """Measure by the broker's reply, which has just come.

        Args:
            reply: To TIME: seconds and microseconds.
            asked_at: When it was asked, by this machine's clock and by its monotonic one.
        """
        (seconds, microseconds), (wall, began) = reply, asked_at
        ended = time.monotonic()
        ahead = seconds + microseconds / 1e6 - (began + ended) / 2
        if self._ahead is None or abs(ahead - self._ahead) > (ended - began) / 2 + TOLERANCE:
            self._ahead = ahead
        self._measured_at = wall, began


CLOCK = Clock()
"""The clock that stamps this process's events; a worker measures it with each heartbeat."""
