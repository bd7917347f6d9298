"""Repair the queue for workers and clients that are gone: a thread of every worker, active on one at a time.

It requeues a running job whose lease has lapsed. It puts a queued job that is in no line into its line, and sends a
message where there are fewer messages than jobs; a job that depends on others gets both when they have ended. It ends
a cancelled job without an owner, drops the ids of expired jobs and of workers that died, and keeps the embeddings cache
within its limit.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import redis

from ltx_client.protocol.fair_turns import GIVEN_BACK
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import Status
from ltx_client.shared.broker.outages import is_outage
from ltx_client.shared.celery.celery_settings import Addressed, unacked_keys
from ltx_client.shared.unexpected_data import read_or, tell_once
from ltx_worker.ledger.embeddings_cache import EmbeddingsLimit
from ltx_worker.ledger.ledger import Ledger
from ltx_worker.queue.fair_turns import FairTurns, SendRender, WaitingJob, job_of
from ltx_worker.queue.lapsed_workers import LapsedWorkers
from ltx_worker.queue.open_jobs import OpenJob, OpenJobs
from ltx_worker.threads.background import Background
from ltx_worker.threads.watched import brief

__all__ = ["Reaper"]

log = logging.getLogger(__name__)

REAPER_LIMIT = 900.0
"""Seconds without a sign of life: one round over 100,000 jobs on a slow broker takes less."""
LEVEL_MARK = "+"
"""What is before the level in the lock's value; level 0 is not written, as older workers have none."""
REFUSALS = tuple(f"errorstat_{code}" for code in ("OOM", "BUSY", "MISCONF", "NOREPLICAS", "READONLY", "MASTERDOWN"))
"""The server's counts of commands that it refused for its own state; refusals for lack of a right do not count."""


class Reaper(Background):
    """A thread that makes one round every `every` seconds while it has the farm's reaper lock.

    Args:
        client: of the broker.
        names: of the farm's keys.
        ledger: requeues jobs.
        send: puts a message for a job into its queue, at a priority.
        embeddings: the limit of the embeddings cache.
        holder: this process's value of the lock.
        every: seconds between two rounds.
        lease: seconds of a lease. For so long after the broker was away or restarted, no job is requeued.
        level: the highest level of features that this version reads. The lock is taken from a worker of a lower one,
            which leaves jobs alone that it cannot read.
        note_requeued: is called for each job of a worker that is gone, once it is back in its queue.

    Attributes:
        is_chosen: whether this worker's reaper had the farm's lock in its last round.
    """

    def __init__(
        self,
        client: redis.Redis,
        names: Names,
        ledger: Ledger,
        send: SendRender,
        embeddings: EmbeddingsLimit,
        *,
        holder: str,
        every: float,
        lease: float,
        level: int = 0,
        note_requeued: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__("reaper", limit=REAPER_LIMIT, longest_pause=every)
        self._client = client
        self._names = names
        self._ledger = ledger
        self._send = send
        self._embeddings = embeddings
        self._holder = f"{holder}{LEVEL_MARK}{level}" if level else holder
        self._level = level
        self.is_chosen = False
        self._every = every
        self._lease = lease
        self._note_requeued = note_requeued
        self._open_jobs = OpenJobs(client, names)
        self._lapsed_workers = LapsedWorkers(client, names)
        self._turns = FairTurns(client, names, self._send_or_skip)
        self._blocked: set[str] = set()
        self._server_run: str | None = None
        self._heard_at = time.monotonic()
        self._suspended_until = 0.0
        self._refused: dict[str, Any] | None = None

    def start(self) -> None:
        """Start the thread."""
        self._heard_at = time.monotonic()
        super().start()

    def _cycle(self) -> None:
        if self._stopped.wait(self._every):
            return
        try:
            self.is_chosen = self._has_lock()
            if self.is_chosen:
                self.run_once()
            self._notice_silence()
        except BaseException as error:
            if is_outage(error):
                self._suspend_requeues()
            raise

    def _are_requeues_suspended(self) -> bool:
        """Return whether owners may have been unable to renew their leases lately; no job is requeued then."""
        refused = time.monotonic() - self._threads.refused_at < self._lease
        return refused or time.monotonic() < self._suspended_until

    def _suspend_requeues(self) -> None:
        self._suspended_until = time.monotonic() + self._lease

    def _notice_silence(self) -> None:
        """Suspend requeues if the broker did not answer for most of a lease.

        The client tries again by itself, so an outage may look like a slow answer, and other workers could not renew
        their leases meanwhile.
        """
        now = time.monotonic()
        if now - self._heard_at > self._every + self._lease / 2:
            log.warning("reaper: the broker did not answer for %.1f s", now - self._heard_at - self._every)
            self._suspend_requeues()
        self._heard_at = now

    def _has_lock(self) -> bool:
        """Take or renew the farm's reaper lock, which expires once its holder is gone; return whether it is held."""
        key, expiry = self._names.reaper(), round(self._every * 2500)
        if self._client.set(key, self._holder, nx=True, px=expiry):
            return True
        holder: Any = read_or("damaged", key, lambda: self._client.get(key))
        if holder == "damaged" or _level_of(holder) < self._level:
            return bool(self._client.set(key, self._holder, px=expiry))
        if holder != self._holder.encode():
            self._client.pexpire(key, expiry, nx=True)  # a lock without an expiry has no holder
            return False
        self._client.pexpire(key, expiry)
        return True

    def run_once(self) -> None:
        """Make one round over all jobs that have not ended. What is damaged is skipped, and the rest is done."""
        self._notice_restart()
        parts = {
            "examine the jobs": self._examine_jobs,
            "drop deliveries": self._drop_deliveries,
            "drop the workers that are gone": self._lapsed_workers.drop,
            "trim the embeddings cache": self._embeddings.trim,
        }
        for what, part in parts.items():
            with self._skipping_errors(what):
                part()
            self._beat()

    @contextlib.contextmanager
    def _skipping_errors(self, what: str) -> Iterator[None]:
        """Log any error inside and continue, except for an outage, which concerns everything."""
        try:
            yield
        except Exception as error:
            if is_outage(error):
                raise
            self._note(error)
            tell_once(f"reaper: cannot {what}, and continues with the rest: {brief(error)}")

    def _examine_jobs(self) -> None:
        waiting, open_jobs = [], self._open_jobs.read()
        self._notice_silence()
        blocked = self._depending(open_jobs) | {found.job.id for found in open_jobs if found.paused}
        for found in open_jobs:
            job_id = found.job.id
            orphaned = found.snapshot.status is Status.RUNNING and not found.leased
            if found.snapshot.status is Status.QUEUED and not found.cancel_asked:
                if job_id in blocked:
                    continue
                waiting.append(WaitingJob(found.job, GIVEN_BACK if found.snapshot.attempt else found.job.priority))
            elif found.cancel_asked or (orphaned and not self._are_requeues_suspended()):
                with self._skipping_errors(f"requeue job {job_id}"):
                    self._requeue(found)
        self._turns.update(waiting, free=self._blocked - blocked)
        self._blocked = blocked

    def _send_or_skip(self, job: Addressed, priority: int) -> None:
        """Send a message; if the job's queue is damaged, leave it for the next round."""
        with self._skipping_errors(f"send a message to queue {job.queue}"):
            self._send(job, priority)

    def _requeue(self, found: OpenJob) -> None:
        outcome = self._ledger.requeue(found.job.id, found.snapshot, found.job)
        if outcome is not None:
            log.warning("job %s: its worker is gone; it is %s now", found.job.id, outcome)
        if outcome is Status.QUEUED:
            self._note_requeued()
            self._send_or_skip(found.job, GIVEN_BACK)

    def _depending(self, open_jobs: list[OpenJob]) -> set[str]:
        """Return the ids of jobs that depend on others which have not ended."""
        live = {found.job.id for found in open_jobs} | self._open_jobs.newer
        batches = {batch_id for found in open_jobs for batch_id in found.relations.after_batches}
        open_batches = {batch_id for batch_id in batches if not live.isdisjoint(self._jobs_of(batch_id))}
        return {
            found.job.id
            for found in open_jobs
            if not live.isdisjoint(found.relations.after_jobs)
            or not open_batches.isdisjoint(found.relations.after_batches)
        }

    def _jobs_of(self, batch_id: str) -> set[str]:
        key = self._names.batch_jobs(batch_id)
        ids: Any = read_or([], key, lambda: self._client.zrange(key, 0, -1))
        return {job_id.decode(errors="replace") for job_id in ids}

    def _notice_restart(self) -> None:
        server: Any = self._client.info("server")
        refusals = self._refusals()
        if refusals != self._refused and self._refused is not None:
            log.info("reaper: the broker has refused writes; no job is requeued for %g s", self._lease)
            self._suspend_requeues()
        self._refused = refusals
        if server["run_id"] != self._server_run:
            if self._server_run is not None:
                log.warning("reaper: the broker was restarted")
                self._suspend_requeues()
                self._forget()
            self._server_run = server["run_id"]

    def _forget(self) -> None:
        """Forget what was read, so that the next round reads everything.

        On a server that lost its last writes, or a replica in its place, a job that had ended may run.
        """
        self._open_jobs = OpenJobs(self._client, self._names)
        self._turns = FairTurns(self._client, self._names, self._send_or_skip)
        self._blocked = set()

    def _refusals(self) -> dict[str, Any]:
        """Return how often the broker has refused commands, of any client, because of its own state."""
        errors: Any = self._client.info("errorstats")
        return {name: errors[name] for name in REFUSALS if name in errors}

    def _drop_deliveries(self) -> None:
        """Drop the messages of ended jobs that a dead worker has not acknowledged, which Celery keeps for a day."""
        unacked, index = unacked_keys(self._names)
        delivered: Any = self._client.hgetall(unacked)
        tags = [tag for tag, message in delivered.items() if job_of(message) in self._open_jobs.ended]
        if tags:
            with self._client.pipeline() as pipeline:
                pipeline.hdel(unacked, *tags)
                pipeline.zrem(index, *tags)
                pipeline.execute()


def _level_of(holder: bytes | None) -> int:
    """Return the level of the worker that has the lock; 0 for one that is older than levels."""
    level = (holder or b"").rpartition(LEVEL_MARK.encode())[2]
    return int(level) if holder and LEVEL_MARK.encode() in holder and level.isdigit() else 0
