"""Whether the broker would lose its jobs at a restart, asked again now and then: its rules may change while it runs."""

from __future__ import annotations

import time

import redis

from ltx_client.protocol.names import Names
from ltx_client.shared.doctor.checks import Level
from ltx_client.shared.doctor.replay_check import examine_replay

__all__ = ["RestartSafety"]

AGAIN_AFTER = 60.0
"""Seconds until a broker that was found to be safe is asked again. One that is not is asked each time."""


class RestartSafety:
    """Remembers what was found the last time."""

    def __init__(self, client: redis.Redis, names: Names, again_after: float = AGAIN_AFTER) -> None:
        self._client = client
        self._names = names
        self._again_after = again_after
        self._safe_until = 0.0

    def why_not(self) -> str:
        """Return why no job should be taken from this broker, or nothing. Raises redis-py's errors."""
        if time.monotonic() < self._safe_until:
            return ""
        found = examine_replay(self._client, self._names)
        if found.level is Level.FAILURE:
            return f"{found.text}; {found.fix}"
        self._safe_until = time.monotonic() + self._again_after
        return ""
