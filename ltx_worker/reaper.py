"""Looks after the queue in place of those who are gone: on every worker, one at a time.

A running job whose lease lapsed goes back into the queue; a queued job that no message leads to gets one; a
cancelled job that nobody owns is ended; ids of jobs whose time ran out are dropped.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import redis
from kombu.exceptions import OperationalError

from ltx_client.protocol.jobs import Job, UnreadableJob, parse_job
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import Snapshot, Status
from ltx_client.protocol.transport import queue_keys
from ltx_worker.ledger import Ledger

__all__ = ["Reaper"]

log = logging.getLogger(__name__)

FIRST_IN_LINE = 0


@dataclass(frozen=True)
class _Found:
    """A job that has not ended, as one look found it."""

    job: Job
    snapshot: Snapshot
    leased: bool
    cancel_asked: bool


class Reaper:
    """A thread that looks every `every` seconds, while it holds the farm's reaper lock.

    send: puts a message for a job into its queue, at a priority.  lease: seconds; after Redis was away or restarted,
    no lease is held against its owner for so long.
    """

    def __init__(
        self,
        client: redis.Redis,
        names: Names,
        ledger: Ledger,
        send: Callable[[Job, int], None],
        *,
        worker_id: str,
        every: float,
        lease: float,
    ) -> None:
        self._client = client
        self._names = names
        self._ledger = ledger
        self._send = send
        self._worker_id = worker_id
        self._every = every
        self._lease = lease
        self._ended: set[str] = set()
        self._without_message: set[str] = set()
        self._server_run: str | None = None
        self._patient_until = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reaper", daemon=True)

    def start(self) -> None:
        """Begins to look."""
        self._thread.start()

    def stop(self) -> None:
        """Stops after the look in hand."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._every):
            try:
                if self._has_lock():
                    self.look()
            except (redis.RedisError, OperationalError) as error:
                log.warning("reaper: the broker is away: %s", error)
                self._patient_until = time.monotonic() + self._lease

    def _has_lock(self) -> bool:
        """One reaper at a time: the lock is renewed by its holder, and free soon after the holder is gone."""
        key, expiry = self._names.reaper(), round(self._every * 2500)
        if self._client.set(key, self._worker_id, nx=True, px=expiry):
            return True
        holder: Any = self._client.get(key)
        if holder is None or holder.decode() != self._worker_id:
            return False
        self._client.pexpire(key, expiry)
        return True

    def look(self) -> None:
        """Looks once at all jobs that have not ended."""
        self._notice_restart()
        waiting = []
        for found in self._unended():
            job_id = found.job.id
            orphaned = found.snapshot.status is Status.RUNNING and not found.leased
            if found.snapshot.status is Status.QUEUED and not found.cancel_asked:
                waiting.append(found.job)
            elif found.cancel_asked or (orphaned and time.monotonic() >= self._patient_until):
                outcome = self._ledger.requeue(job_id, found.snapshot)
                if outcome is not None:
                    log.warning("job %s: its worker is gone; it is %s now", job_id, outcome)
                if outcome is Status.QUEUED:
                    self._send(found.job, FIRST_IN_LINE)
        self._send_missing(waiting)

    def _notice_restart(self) -> None:
        server: Any = self._client.info("server")
        if server["run_id"] != self._server_run:
            if self._server_run is not None:
                log.warning("reaper: the broker was restarted")
                self._patient_until = time.monotonic() + self._lease
            self._server_run = server["run_id"]

    def _unended(self) -> Iterable[_Found]:
        names = self._names
        everything: Any = self._client.zrange(names.jobs(), 0, -1)
        ids = [job_id for job_id in (raw.decode() for raw in everything) if job_id not in self._ended]
        self._ended.intersection_update(raw.decode() for raw in everything)
        with self._client.pipeline(transaction=False) as pipeline:
            for job_id in ids:
                pipeline.hget(names.job(job_id), "spec")
                pipeline.hget(names.state(job_id), "snapshot")
                pipeline.exists(names.lease(job_id))
                pipeline.exists(names.cancel(job_id))
            replies = iter(pipeline.execute())
        for job_id, spec, stored, leased, cancel in zip(ids, replies, replies, replies, replies, strict=True):
            if spec is None:
                self._client.zrem(names.jobs(), job_id)
                continue
            snapshot = Snapshot() if stored is None else Snapshot.model_validate_json(stored)
            if snapshot.ended:
                self._ended.add(job_id)
                continue
            try:
                yield _Found(parse_job(spec), snapshot, bool(leased), bool(cancel))
            except UnreadableJob as error:
                log.warning("job %s: left alone: %s", job_id, error)

    def _send_missing(self, waiting: list[Job]) -> None:
        """Sends a message for each job that two looks in a row found queued but in no queue.

        Once is not enough: a message that was just delivered is in no queue, and its job not yet claimed. One
        message too many does no harm.
        """
        by_queue = defaultdict(list)
        for job in waiting:
            by_queue[job.queue].append(job)
        missing = set()
        for queue, jobs in by_queue.items():
            held = self._held(queue)
            missing |= {job.id for job in jobs if job.id not in held}
        for job in waiting:
            if job.id in missing & self._without_message:
                log.warning("job %s: no message led to it; sending one", job.id)
                self._send(job, job.priority)
                missing.discard(job.id)
        self._without_message = missing

    def _held(self, queue: str) -> set[str]:
        """The ids of the jobs that the messages in a queue are for."""
        with self._client.pipeline(transaction=False) as pipeline:
            for key in queue_keys(self._names, queue):
                pipeline.lrange(key, 0, -1)
            lists = pipeline.execute()
        return {job_id for messages in lists for message in messages if (job_id := _job_of(message))}


def _job_of(message: bytes) -> str | None:
    try:
        return str(json.loads(message)["headers"]["id"])
    except (ValueError, KeyError, TypeError):
        return None
