"""Read which jobs have not ended: at every round of the reaper, and so cheaply, however many wait or have ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import redis

from ltx_client.protocol.changes.messages import JobRemoved
from ltx_client.protocol.jobs import (
    Job,
    NewerVersion,
    Relations,
    UnreadableJob,
    parse_job,
    parse_priority,
    parse_relations,
)
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import ENDED, Snapshot, Status, parse_snapshot
from ltx_client.shared.lua.lua_script import RegisteredScript
from ltx_client.shared.unexpected_data import is_wrong_type, read_or
from ltx_worker.ledger.scripts import DROP_EXPIRED, FIND_LEASED, FIND_PRESENT, READ_CHANGES, READ_SNAPSHOTS

__all__ = ["OpenJob", "OpenJobs"]

log = logging.getLogger(__name__)

SWEEP_EVERY = 60.0
"""Seconds between two reads of all ids, including those before the oldest job that has not ended."""
UNTOUCHED = Snapshot()
ENDED_STORED = frozenset(status.encode() for status in ENDED)
WRONG_TYPE = "one of its keys has a value of the wrong kind"
BATCH = 1000
"""Keys of one command: Redis serves nobody else meanwhile."""


LEFT = ("job", "state", "events", "latents", "preview", "result")
"""The kinds of a job's keys: its record, then those that may remain when the record is gone."""


@dataclass(frozen=True)
class OpenJob:
    """A job that has not ended, as read once.

    Attributes:
        job: the job, with the priority that was set last.
        snapshot: its state.
        leased: whether an attempt has a lease on it.
        cancel_asked: whether its cancel was asked.
        relations: its relations to other jobs.
        paused: whether it is paused.
    """

    job: Job
    snapshot: Snapshot
    leased: bool
    cancel_asked: bool
    relations: Relations
    paused: bool = False


class OpenJobs:
    """Reads the jobs that have not ended, and remembers what cannot change: their records, and which have ended.

    Args:
        client: of the broker.
        names: of the farm's keys.

    Attributes:
        ended: the ids of jobs that were found to have ended.
        newer: the ids of jobs of newer versions, or with a state of one, that had not ended at the last read.
    """

    def __init__(self, client: redis.Redis, names: Names) -> None:
        self._client = client
        self._names = names
        self._find_present = RegisteredScript(client, FIND_PRESENT)
        self._find_leased = RegisteredScript(client, FIND_LEASED)
        self._read_snapshots = RegisteredScript(client, READ_SNAPSHOTS)
        self._read_changes = RegisteredScript(client, READ_CHANGES)
        self._drop = RegisteredScript(client, DROP_EXPIRED)
        self._jobs: dict[str, tuple[Job, Relations]] = {}
        self.ended: set[str] = set()
        self.newer: set[str] = set()
        self._newer_records: set[str] = set()
        self._unreadable: set[str] = set()
        self._oldest: Any = "-inf"
        self._sweep_at = 0.0

    def read(self) -> list[OpenJob]:
        """Return the jobs that have not ended, the oldest first, without those that this version cannot read."""
        ids = self._candidates()
        self._newer_records.intersection_update(ids)
        self._read_jobs([job_id for job_id in ids if job_id not in self._jobs and job_id not in self._newer_records])
        found_states = dict(self._snapshots([job_id for job_id in ids if job_id in self._jobs]))
        snapshots = {job_id: snapshot for job_id, snapshot in found_states.items() if snapshot is not None}
        self._find_newer(self._newer_records | (found_states.keys() - snapshots.keys()))
        self.ended |= {job_id for job_id, snapshot in snapshots.items() if snapshot.ended}
        live = [job_id for job_id in snapshots if job_id not in self.ended]
        self._jobs = {job_id: self._jobs[job_id] for job_id in live}
        if ids:
            oldest = next((job_id for job_id in ids if job_id in self._jobs or job_id in self.newer), ids[-1])
            self._oldest = self._client.zscore(self._names.jobs(), oldest) or "-inf"
        cancelled = self._present([self._names.cancel(job_id) for job_id in live])
        running = [job_id for job_id in live if snapshots[job_id].status is Status.RUNNING]
        leased = self._present([self._names.lease(job_id) for job_id in running], self._find_leased)
        changes = dict(self._changes([job_id for job_id in live if snapshots[job_id].status is Status.QUEUED]))
        found = []
        for job_id in live:
            job, relations = self._jobs[job_id]
            priority, paused = changes.get(job_id, (None, False))
            found.append(
                OpenJob(
                    job if priority in (None, job.priority) else job.model_copy(update={"priority": priority}),
                    snapshots[job_id],
                    self._names.lease(job_id) in leased,
                    self._names.cancel(job_id) in cancelled,
                    relations,
                    paused,
                )
            )
        return found

    def _candidates(self) -> list[str]:
        """Return the ids of jobs that may not have ended, by their time of submission."""
        sweep = time.monotonic() >= self._sweep_at
        first = "-inf" if sweep else self._oldest
        key = self._names.jobs()
        found: Any = read_or([], key, lambda: self._client.zrange(key, first, "+inf", byscore=True))
        ids = [raw.decode(errors="replace") for raw in found]
        if sweep:
            self._drop_expired(ids)
            self._sweep_at = time.monotonic() + SWEEP_EVERY
        return [job_id for job_id in ids if job_id not in self.ended]

    def _drop_expired(self, ids: list[str]) -> None:
        """Remove the ids whose records are gone from the farm's list, and the keys that workers wrote for them."""
        self.ended.intersection_update(ids)
        self._unreadable.intersection_update(ids)
        for batch in _batches(ids):
            keys = [self._names.job(job_id) for job_id in batch]
            if self._client.exists(*keys) == len(keys):
                continue
            with self._client.pipeline(transaction=False) as pipeline:
                for key in keys:
                    pipeline.exists(key)
                gone = [job_id for job_id, there in zip(batch, pipeline.execute(), strict=True) if not there]
            if not gone:
                continue
            kinds = [getattr(self._names, kind) for kind in LEFT]
            left = [kind(job_id) for job_id in gone for kind in kinds]
            removed = [JobRemoved.model_construct(job=job_id).model_dump_json() for job_id in gone]
            dropped = [part for pair in zip(gone, removed, strict=True) for part in pair]
            self._drop(jobs=self._names.jobs(), left=left, changes=self._names.changes(), dropped=dropped)
            self.ended.difference_update(gone)
            for job_id in gone:
                self._jobs.pop(job_id, None)

    def _read_jobs(self, ids: list[str]) -> None:
        with self._client.pipeline(transaction=False) as pipeline:
            for job_id in ids:
                pipeline.hmget(self._names.job(job_id), "spec", "links")
            records = pipeline.execute(raise_on_error=False)
        for job_id, record in zip(ids, records, strict=True):
            try:
                if is_wrong_type(record):
                    raise UnreadableJob(WRONG_TYPE)
                if isinstance(record, Exception):
                    raise record
                spec, relations = record
                if spec is None:  # expired since the last sweep
                    continue
                self._jobs[job_id] = parse_job(spec, job_id), parse_relations(relations)
            except UnreadableJob as error:
                if isinstance(error, NewerVersion):
                    self._newer_records.add(job_id)
                self._skip(job_id, error)

    def _find_newer(self, ids: Iterable[str]) -> None:
        """Find those of these jobs that have not ended, by the one word of their states that all versions share."""
        self.newer = set()
        for batch in _batches([*ids]):
            with self._client.pipeline(transaction=False) as pipeline:
                for job_id in batch:
                    pipeline.hget(self._names.state(job_id), "status")
                statuses = pipeline.execute(raise_on_error=False)
            for job_id, status in zip(batch, statuses, strict=True):
                if is_wrong_type(status):  # nobody will ever end it
                    continue
                if isinstance(status, Exception):
                    raise status
                (self.ended if status in ENDED_STORED else self.newer).add(job_id)

    def _skip(self, job_id: str, error: UnreadableJob) -> None:
        """Log once that a job is skipped."""
        if job_id not in self._unreadable:
            log.warning("job %s: skipped: %s", job_id, error)
            self._unreadable.add(job_id)

    def _snapshots(self, ids: list[str]) -> Iterator[tuple[str, Snapshot | None]]:
        """Yield each job's state; None if a newer version has written it. Those that are damaged are left out."""
        for batch in _batches(ids):
            stored: Any = self._read_snapshots(states=[self._names.state(job_id) for job_id in batch])
            found = dict(zip(stored[::2], stored[1::2], strict=True))
            for number, job_id in enumerate(batch, 1):
                try:
                    if found.get(number) == 0:
                        raise UnreadableJob(WRONG_TYPE)
                    snapshot = parse_snapshot(found[number]) if number in found else UNTOUCHED
                except NewerVersion as error:
                    self._skip(job_id, error)
                    yield job_id, None
                except UnreadableJob as error:
                    self._skip(job_id, error)
                else:
                    yield job_id, snapshot

    def _changes(self, ids: list[str]) -> Iterator[tuple[str, tuple[int | None, bool]]]:
        """Yield each job that was changed since its submission: its new priority or None, and whether it is paused."""
        for batch in _batches(ids):
            stored: Any = self._read_changes(jobs=[self._names.job(job_id) for job_id in batch])
            for number, priority, paused in zip(*(stored[part::3] for part in range(3)), strict=True):
                yield batch[number - 1], (parse_priority(priority), bool(paused))

    def _present(self, keys: list[str], find: RegisteredScript | None = None) -> set[str]:
        """Return those of these keys that exist, or that `find` reports."""
        found = set()
        for batch in _batches(keys):
            numbers: Any = (find or self._find_present)(keys=batch)
            found |= {batch[number - 1] for number in numbers}
        return found


def _batches(items: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]
