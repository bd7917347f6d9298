"""Check now and then whether the broker would lose its jobs at a restart: its ACL may change while it runs."""

from __future__ import annotations

import time

import redis

from ltx_client.protocol.names import Names
from ltx_client.shared.doctor.checks import Level
from ltx_client.shared.doctor.replay_check import examine_replay

__all__ = ["RestartSafety"]

AGAIN_AFTER = 60.0
"""Seconds until a broker that was found to be safe is checked again. One that is not is checked each time."""


class RestartSafety:
    """Checks the broker, and remembers for a while that it was safe.

    Args:
        client: of the broker.
        names: of the farm's keys.
        again_after: seconds until a safe broker is checked again.
    """

    def __init__(self, client: redis.Redis, names: Names, again_after: float = AGAIN_AFTER) -> None:
        self._client = client
        self._names = names
        self._again_after = again_after
        self._safe_until = 0.0

    def why_not(self) -> str:
        """Return why no job should be taken from this broker, in a sentence, or "".

        Raises:
            redis.RedisError: the broker does not answer, or refuses.
        """
        if time.monotonic() < self._safe_until:
            return ""
        found = examine_replay(self._client, self._names)
        if found.level is Level.FAILURE:
            return f"{found.text}; {found.fix}"
        self._safe_until = time.monotonic() + self._again_after
        return ""
