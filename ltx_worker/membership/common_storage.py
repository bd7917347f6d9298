"""Check that this worker uses the same storage as the farm's other workers.

Another farm's share may be mounted in its place, and nobody would find the videos that are stored there.
"""

from __future__ import annotations

import time

import redis

from ltx_client.protocol.names import Names
from ltx_client.protocol.workers import PAUSED, WorkerInfo
from ltx_client.shared.live_workers import live_workers

__all__ = ["CommonStorage"]

AGAIN_AFTER = 10.0
"""Seconds between two checks."""


class CommonStorage:
    """Compares the storage ids in the workers' records.

    Of two workers that differ, the one that started later is taken to be wrong. It stays so, even when the other one is
    gone for a while, until there is a worker with the same storage.
    """

    def __init__(self, client: redis.Redis, names: Names) -> None:
        self._client = client
        self._names = names
        self._why = ""
        self._ask_at = 0.0

    def is_due(self) -> bool:
        """Return whether it is time for the next check."""
        return time.monotonic() >= self._ask_at

    def why_not(self, own: WorkerInfo) -> str:
        """Return why this worker should take no jobs, in a sentence, or "".

        Raises:
            redis.RedisError: the broker does not answer, or refuses.
        """
        self._ask_at = time.monotonic() + AGAIN_AFTER
        if not own.storage:
            return ""
        others = [
            worker
            for worker in live_workers(self._client, self._names)
            if worker.run != own.run and worker.storage and worker.state != PAUSED
        ]
        before = [worker for worker in others if (worker.started_at, worker.id) < (own.started_at, own.id)]
        different = [worker for worker in before if worker.storage != own.storage]
        if different:
            self._why = (
                f"its storage ({own.storage[:8]}…) is not that of worker {different[0].name}"
                f" ({different[0].storage[:8]}…), which started before; mount the farm's share, or set LTX_STORAGE_URL,"
                " on whichever of them is wrong, and start it again"
            )
        elif any(worker.storage == own.storage for worker in others):
            self._why = ""
        return self._why
