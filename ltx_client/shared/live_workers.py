"""Read the live workers: those whose records have not expired."""

from __future__ import annotations

from typing import Any

import redis
from pydantic import ValidationError

from ltx_client.protocol.names import Names
from ltx_client.protocol.validation import READING, first_error
from ltx_client.protocol.workers import WorkerInfo
from ltx_client.shared.unexpected_data import is_wrong_type, read_or, tell_once

__all__ = ["live_workers"]


def live_workers(client: redis.Redis, names: Names) -> list[WorkerInfo]:
    """Return the live workers, by name, without those whose records cannot be read.

    Raises:
        redis.RedisError: The broker did not answer.
    """
    ids: Any = read_or([], names.workers(), lambda: client.zrange(names.workers(), 0, -1))
    with client.pipeline(transaction=False) as pipeline:
        for worker_id in ids:
            pipeline.hgetall(names.worker(worker_id.decode(errors="replace")))
        hashes: Any = pipeline.execute(raise_on_error=False)
    workers = []
    for worker_id, fields in zip(ids, hashes, strict=True):
        if is_wrong_type(fields):
            tell_once(f"worker {worker_id} is left out: its key has a value of the wrong type")
            continue
        if isinstance(fields, Exception):
            raise fields
        texts = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in fields.items()}
        try:
            workers += [WorkerInfo.model_validate(texts, context=READING)] if texts else []
        except ValidationError as error:
            tell_once(f"worker {worker_id} is left out: its record cannot be read ({first_error(error)})")
    return sorted(workers, key=lambda worker: (worker.name, worker.id))
