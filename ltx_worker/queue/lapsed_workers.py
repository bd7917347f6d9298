"""Remove workers that died from the farm's list, and tell the farm's channel of them, once."""

from __future__ import annotations

from typing import Any

import redis

from ltx_client.protocol.changes.messages import WorkerLeft
from ltx_client.protocol.names import Names
from ltx_client.shared.lua.lua_script import RegisteredScript
from ltx_client.shared.unexpected_data import read_or
from ltx_worker.ledger.scripts import DROP_LAPSED

__all__ = ["LapsedWorkers"]


class LapsedWorkers:
    """Finds listed workers whose records have expired. One that only paused for long is listed again by its next beat.

    Args:
        client: of the broker.
        names: of the farm's keys.
    """

    def __init__(self, client: redis.Redis, names: Names) -> None:
        self._client = client
        self._names = names
        self._drop = RegisteredScript(client, DROP_LAPSED)

    def drop(self) -> None:
        """Remove those that are gone now.

        Raises:
            redis.RedisError: the broker does not answer, or refuses.
        """
        key = self._names.workers()
        listed: Any = read_or([], key, lambda: self._client.zrange(key, 0, -1))
        ids = [raw.decode(errors="replace") for raw in listed]
        with self._client.pipeline(transaction=False) as pipeline:
            for worker_id in ids:
                pipeline.hget(self._names.worker(worker_id), "id")
            found = pipeline.execute(raise_on_error=False)  # a record of the wrong type is its worker's to replace
        gone = [worker_id for worker_id, its_id in zip(ids, found, strict=True) if its_id is None]
        if gone:
            left = [WorkerLeft.model_construct(worker=worker_id, died=True).model_dump_json() for worker_id in gone]
            self._drop(
                workers=key,
                records=[self._names.worker(worker_id) for worker_id in gone],
                changes=self._names.changes(),
                lapsed=[part for pair in zip(gone, left, strict=True) for part in pair],
            )
