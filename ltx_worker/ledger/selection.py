"""Select the job that a worker takes when a message has come: the one whose turn it is."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import redis

from ltx_client.protocol.fair_turns import line_class, not_on_field
from ltx_client.protocol.names import Names
from ltx_client.protocol.pauses import queue_field, worker_field
from ltx_client.protocol.state import Snapshot, parse_snapshot
from ltx_client.protocol.versions.features import levels
from ltx_client.shared.lua.lua_script import RegisteredScript
from ltx_models.memory import MEMORY_CLASSES
from ltx_worker.ledger.scripts import NEXT

__all__ = ["PAUSED", "NextTurn", "Turn"]

PAUSED = "paused"
"""Nothing is granted: the worker is paused, or its queue."""


@dataclass(frozen=True)
class Turn:
    """A job whose turn it is, as it was read.

    Attributes:
        job_id: the job.
        line: the key of the line in which it waits.
        entry: its entry in that line; "" if the job came first because its cancel was asked.
        spec: its record.
        snapshot: its state.
        relations: its relations to other jobs.
    """

    job_id: str
    line: str
    entry: str
    spec: bytes | None = field(repr=False)
    snapshot: bytes | None = field(repr=False)
    relations: bytes | None = field(repr=False)

    def read(self) -> tuple[Snapshot, bytes | None]:
        """Return the job's state and record, as `Ledger.read_with_spec` does.

        Raises:
            UnreadableJob: the state is damaged or of a newer version.
        """
        return parse_snapshot(self.snapshot), self.spec


class NextTurn:
    """Reads and rotates the index of waiting submitters. Its methods raise redis.RedisError."""

    def __init__(self, client: redis.Redis, names: Names) -> None:
        self._client = client
        self._names = names
        self._next = RegisteredScript(client, NEXT)

    def next(
        self,
        worker: str,
        worker_name: str,
        variant: str,
        budget_gb: float,
        *,
        cancelled: str = "",
        leave: Collection[str] = (),
    ) -> Turn | str | None:
        """Return the job whose turn it is, among those that this worker may render.

        Its submitter's next turn comes after everybody else's. Until it is claimed, the job stays in its line, behind
        the submitter's other jobs.

        Args:
            worker: the worker's id.
            worker_name: the worker's name.
            variant: the variant that it serves.
            budget_gb: the memory that it may use.
            cancelled: the id of a job that comes first if its cancel was asked and nobody has ended it.
            leave: ids of jobs to pass over.

        Returns:
            The job, None if there is none, or PAUSED if the worker or its queue is paused.
        """
        names = self._names
        sizes = [size for size in MEMORY_CLASSES if size <= budget_gb]
        classes = "".join(f":{line_class(size, level)}:" for level in levels() for size in sizes)
        found: Any = self._next(
            turns=names.turns(variant),
            paused=names.paused(),
            line_prefix=names.line(variant, ""),
            job_prefix=names.job(""),
            state_prefix=names.state(""),
            cancel_prefix=names.cancel(""),
            classes=classes,
            not_on_id=not_on_field(worker),
            not_on_name=not_on_field(worker_name),
            cancelled=cancelled,
            worker_field=worker_field(worker),
            queue_field=queue_field(variant),
            leave=[*leave],
        )
        if len(found) < 2:
            return PAUSED if found else None
        job_id, line, entry, spec, snapshot, relations = found
        return Turn(job_id.decode(), line.decode(), entry.decode(), spec, snapshot, relations)

    def drop(self, turn: Turn) -> None:
        """Remove a job that this worker cannot take from its line."""
        self._client.zrem(turn.line, turn.entry)

    def replace(self, turn: Turn, entry: str) -> bool:
        """Replace a job's entry in its line by another one; return whether it was there."""
        score: Any = self._client.zscore(turn.line, turn.entry)
        if score is None:
            return False
        with self._client.pipeline() as pipeline:
            pipeline.zrem(turn.line, turn.entry)
            pipeline.zadd(turn.line, {entry: score}, nx=True)
            removed, _ = pipeline.execute()
        return bool(removed)
