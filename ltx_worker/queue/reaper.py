"""Looks after the queue in place of those who are gone: on every worker, one at a time.

A running job whose lease lapsed goes back into the queue; a queued job that is in nobody's line is put there, and where
there are fewer messages than jobs, one is sent; a job that waits for others gets both when they have ended; a cancelled
job that nobody owns is ended; ids of jobs whose time ran out are dropped; the cache of text embeddings is kept within
its limit.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import redis

from ltx_client.protocol.jobs import Job
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import Status
from ltx_client.protocol.turns import GIVEN_BACK
from ltx_client.shared.broker.outages import is_outage
from ltx_client.shared.celery.celery_settings import unacked_keys
from ltx_client.shared.unexpected_data import read_or, tell_once
from ltx_worker.ledger.embeddings_cache import EmbeddingsLimit
from ltx_worker.ledger.ledger import Ledger
from ltx_worker.queue.fair_turns import SendRender, Turns, Waiting, job_of
from ltx_worker.queue.open_jobs import Found, Unended
from ltx_worker.threads.background import Background
from ltx_worker.threads.watched import brief

__all__ = ["Reaper"]

log = logging.getLogger(__name__)

REAPER_LIMIT = 900.0
"""Seconds without a beat: one look at 100,000 jobs on a slow broker takes less."""
REFUSALS = tuple(f"errorstat_{code}" for code in ("OOM", "BUSY", "MISCONF", "NOREPLICAS", "READONLY", "MASTERDOWN"))
"""What a server counts of its own state; not what it refuses to who lacks a right, for anybody can repeat that."""


class Reaper(Background):
    """A thread that looks every `every` seconds, while it holds the farm's reaper lock.

    send: puts a message for a job into its queue, at a priority.  holder: of the lock; of this process alone.  lease:
    seconds; after Redis was away or restarted, no lease is held against its owner for so long.  note_requeued: called
    for each job of a worker that is gone, once it is back in its queue.
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
        note_requeued: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__("reaper", limit=REAPER_LIMIT, longest_pause=every)
        self._client = client
        self._names = names
        self._ledger = ledger
        self._send = send
        self._embeddings = embeddings
        self._holder = holder
        self.is_chosen = False
        """Whether this worker's reaper is the one of the farm, as far as it knows."""
        self._every = every
        self._lease = lease
        self._note_requeued = note_requeued
        self._unended = Unended(client, names)
        self._turns = Turns(client, names, self._send_or_leave)
        self._aside: set[str] = set()
        self._server_run: str | None = None
        self._heard_at = time.monotonic()
        self._patient_until = 0.0
        self._refused: dict[str, Any] | None = None

    def start(self) -> None:
        """Begins."""
        self._heard_at = time.monotonic()
        super().start()

    def _cycle(self) -> None:
        if self._stopped.wait(self._every):
            return
        try:
            self.is_chosen = self._has_lock()
            if self.is_chosen:
                self.look()
            self._notice_silence()
        except BaseException as error:
            if is_outage(error):
                self._be_patient()
            raise

    def _is_patient(self) -> bool:
        """Whether owners could not renew their leases of late: none is held against them then."""
        refused = time.monotonic() - self._threads.refused_at < self._lease
        return refused or time.monotonic() < self._patient_until

    def _be_patient(self) -> None:
        self._patient_until = time.monotonic() + self._lease

    def _notice_silence(self) -> None:
        """The client tries again by itself, so that a broker that was away for most of a lease may look like one that
        took long to answer. Other workers could not renew meanwhile either.
        """
        now = time.monotonic()
        if now - self._heard_at > self._every + self._lease / 2:
            log.warning("reaper: the broker did not answer for %.1f s", now - self._heard_at - self._every)
            self._be_patient()
        self._heard_at = now

    def _has_lock(self) -> bool:
        """One reaper at a time: the lock is renewed by its holder, and free soon after the holder is gone."""
        key, expiry = self._names.reaper(), round(self._every * 2500)
        if self._client.set(key, self._holder, nx=True, px=expiry):
            return True
        holder: Any = read_or("damaged", key, lambda: self._client.get(key))
        if holder == "damaged":
            return bool(self._client.set(key, self._holder, px=expiry))
        if holder != self._holder.encode():
            self._client.pexpire(key, expiry, nx=True)  # one that would never expire is nobody's
            return False
        self._client.pexpire(key, expiry)
        return True

    def look(self) -> None:
        """Looks once at all jobs that have not ended. What is damaged is set aside, and the rest seen to."""
        self._notice_restart()
        for part in (self._look_at_jobs, self._forget_deliveries, self._embeddings.keep):
            with self._setting_aside(part.__name__.strip("_").replace("_", " ")):
                part()
            self._beat()

    @contextlib.contextmanager
    def _setting_aside(self, what: str) -> Iterator[None]:
        """Go on after any error but an outage, which concerns all."""
        try:
            yield
        except Exception as error:
            if is_outage(error):
                raise
            self._note(error)
            tell_once(f"reaper: {what} is set aside: {brief(error)}")

    def _look_at_jobs(self) -> None:
        waiting, look = [], self._unended.look()
        self._notice_silence()
        aside = self._following(look) | {found.job.id for found in look if found.held}
        for found in look:
            job_id = found.job.id
            orphaned = found.snapshot.status is Status.RUNNING and not found.leased
            if found.snapshot.status is Status.QUEUED and not found.cancel_asked:
                if job_id in aside:
                    continue
                waiting.append(Waiting(found.job, GIVEN_BACK if found.snapshot.attempt else found.job.priority))
            elif found.cancel_asked or (orphaned and not self._is_patient()):
                with self._setting_aside(f"job {job_id}"):
                    self._requeue(found)
        self._turns.give(waiting, free=self._aside - aside)
        self._aside = aside

    def _send_or_leave(self, job: Job, priority: int) -> None:
        """Send a message, or leave it for the next look where the job's queue is damaged: others wait for theirs."""
        with self._setting_aside(f"a message for queue {job.queue}"):
            self._send(job, priority)

    def _requeue(self, found: Found) -> None:
        outcome = self._ledger.requeue(found.job.id, found.snapshot, found.job)
        if outcome is not None:
            log.warning("job %s: its worker is gone; it is %s now", found.job.id, outcome)
        if outcome is Status.QUEUED:
            self._note_requeued()
            self._send_or_leave(found.job, GIVEN_BACK)

    def _following(self, look: list[Found]) -> set[str]:
        """The jobs that are to wait until others have ended, which have not."""
        live = {found.job.id for found in look}
        batches = {batch_id for found in look for batch_id in found.links.after_batches}
        open_batches = {batch_id for batch_id in batches if not live.isdisjoint(self._jobs_of(batch_id))}
        return {
            found.job.id
            for found in look
            if not live.isdisjoint(found.links.after_jobs) or not open_batches.isdisjoint(found.links.after_batches)
        }

    def _jobs_of(self, batch_id: str) -> set[str]:
        key = self._names.batch_jobs(batch_id)
        ids: Any = read_or([], key, lambda: self._client.zrange(key, 0, -1))
        return {job_id.decode(errors="replace") for job_id in ids}

    def _notice_restart(self) -> None:
        server: Any = self._client.info("server")
        refusals = self._refusals()
        if refusals != self._refused and self._refused is not None:
            log.info("reaper: the broker has refused writes; no lease is held against its owner for a while")
            self._be_patient()
        self._refused = refusals
        if server["run_id"] != self._server_run:
            if self._server_run is not None:
                log.warning("reaper: the broker was restarted")
                self._be_patient()
                self._forget()
            self._server_run = server["run_id"]

    def _forget(self) -> None:
        """Read all anew: a server that lost its last writes, or a replica in its place, may say of a job that had ended
        that it runs.
        """
        self._unended = Unended(self._client, self._names)
        self._turns = Turns(self._client, self._names, self._send_or_leave)
        self._aside = set()

    def _refusals(self) -> dict[str, Any]:
        """Return how often the broker has refused a command, of anybody's, for a reason of its own."""
        errors: Any = self._client.info("errorstats")
        return {name: errors[name] for name in REFUSALS if name in errors}

    def _forget_deliveries(self) -> None:
        """Drops the messages of ended jobs that a dead worker has not acknowledged: Celery keeps them for a day."""
        unacked, index = unacked_keys(self._names)
        delivered: Any = self._client.hgetall(unacked)
        tags = [tag for tag, message in delivered.items() if job_of(message) in self._unended.ended]
        if tags:
            with self._client.pipeline() as pipeline:
                pipeline.hdel(unacked, *tags)
                pipeline.zrem(index, *tags)
                pipeline.execute()
