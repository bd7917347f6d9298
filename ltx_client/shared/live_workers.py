"""Read the live workers: those whose records have not expired."""

from __future__ import annotations

import redis
from pydantic import ValidationError

from ltx_client.protocol import PROTOCOL_VERSION
from ltx_client.protocol.names import Names
from ltx_client.protocol.validation import READING, first_error
from ltx_client.protocol.versions.features import is_newer
from ltx_client.protocol.workers import WorkerInfo
from ltx_client.shared.broker.exchange import Command, Exchange, ask_all, run
from ltx_client.shared.unexpected_data import ask_or, is_wrong_type, tell_once

__all__ = ["live_workers", "read_workers"]


def live_workers(client: redis.Redis, names: Names) -> list[WorkerInfo]:
    """Return what `read_workers` returns."""
    return run(client, read_workers(names))


def read_workers(names: Names) -> Exchange[list[WorkerInfo]]:
    """Return the workers whose records are not expired, by name, without those whose records cannot be read.

    Raises:
        redis.RedisError: The broker did not answer.
    """
    members = yield from ask_or([], names.workers(), "zrange", 0, -1)
    ids = [member.decode(errors="replace") for member in members]
    keys = [names.worker(worker_id) for worker_id in ids]
    hashes = yield from ask_all([Command("hgetall", [key]) for key in keys], raise_on_error=False)
    workers = []
    for worker_id, fields in zip(ids, hashes, strict=True):
        if is_wrong_type(fields):
            tell_once(f"worker {worker_id} is left out: its key has a value of the wrong type")
            continue
        if isinstance(fields, Exception):
            raise fields
        texts = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in fields.items()}
        try:
            workers += [_parse(texts)] if texts else []
        except ValidationError as error:
            upgrade = "; a newer version has written it: upgrade this side" if _is_newer(texts) else ""
            tell_once(f"worker {worker_id} is left out: its record cannot be read ({first_error(error)}){upgrade}")
    return sorted(workers, key=lambda worker: (worker.name, worker.id))


def _parse(texts: dict[str, str]) -> WorkerInfo:
    """Return a worker; of one of a newer version, what this version can read. Raise ValidationError."""
    try:
        return WorkerInfo.model_validate(texts, context=READING)
    except ValidationError as error:
        if not _is_newer(texts):
            raise
        unreadable = {str(detail["loc"][0]) for detail in error.errors() if detail["loc"]}
        known = {name: value for name, value in texts.items() if name not in unreadable}
        return WorkerInfo.model_validate(known, context=READING)


def _is_newer(texts: dict[str, str]) -> bool:
    protocol = texts.get("protocol", "")
    is_higher = protocol.isdecimal() and len(protocol) < 10 and int(protocol) > PROTOCOL_VERSION
    return is_higher or is_newer(texts.get("features", "").split())
