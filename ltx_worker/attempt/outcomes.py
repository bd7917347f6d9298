"""How attempts go on, and how they end other than with a video: failed, cancelled, given back, or lost."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from enum import StrEnum
from typing import ParamSpec, TypeVar

import redis

from ltx_client.protocol import events
from ltx_client.protocol.jobs import Job, UnreadableJob
from ltx_client.protocol.state import Status
from ltx_client.shared.broker.outages import is_outage
from ltx_models.errors import FaultKind, MachineFault
from ltx_models.machine_faults import machine_fault
from ltx_worker.attempt.resume_points import ResumePoints
from ltx_worker.attempt.running_attempt import InHand
from ltx_worker.engine.messages import Faulty, Message, Refused, Stopped
from ltx_worker.engine.supervisor import EngineDied
from ltx_worker.ledger.ledger import POISON_LIMITS, Attempt, Ledger, StaleAttempt, Strike
from ltx_worker.machine.health import Health
from ltx_worker.membership.heartbeat import Heartbeat
from ltx_worker.threads.retrying import until_redis_answers
from ltx_worker.threads.watched import THREADS, brief

__all__ = ["Endings", "Outcome"]

log = logging.getLogger(__name__)


STRIKES = {
    FaultKind.MEMORY: Strike.HOST_FAULT,
    FaultKind.GPU: Strike.HOST_FAULT,
    FaultKind.DISPLAY: Strike.HOST_FAULT,
    FaultKind.NUMBERS: Strike.NOT_FINITE,
}
"""How faults that no probe finds count; the others as mishaps."""

P = ParamSpec("P")
T = TypeVar("T")


class Outcome(StrEnum):
    """What came of a message that said: look at this job."""

    HANDED_ON = "handed on"
    """The rest is done beside the next render."""
    ENDED = "ended"
    RELEASED = "released"
    LOST = "lost"
    PAUSED = "paused"
    REFUSED = "refused"


class Endings:
    """Writes them to the ledger, waiting for Redis while it is away; not any more once `leaving` is set. Whose fault an
    early end is, is decided here: by `machine_fault`, and by what the machine's probes find.

    probe: what is wrong with this machine, after a fault of this kind (None: of none) in a render that needs so many
    bytes of memory.
    """

    def __init__(
        self,
        ledger: Ledger,
        points: ResumePoints,
        health: Health,
        heartbeat: Heartbeat,
        leaving: threading.Event,
        probe: Callable[[FaultKind | None, int], MachineFault | None],
    ) -> None:
        self.leaving = leaving
        self._ledger = ledger
        self._health = health
        self._points = points
        self._heartbeat = heartbeat
        self._probe = probe

    def see_through(self, attempt: Attempt, held: contextlib.ExitStack, work: Callable[[], Outcome]) -> Outcome:
        """What comes of work on this attempt: LOST where another attempt has taken over meanwhile. Closes what is held
        for it, before it is given back for the machine's fault.
        """
        try:
            with held:
                outcome = work()
        except StaleAttempt as error:
            log.warning("job %s: %s; dropped", attempt.job_id, error)
            return Outcome.LOST
        except Exception as error:  # noqa: BLE001 — what nobody expects is raised again
            if is_outage(error):  # while leaving: the lease lapses, and the reaper brings the job to another worker
                log.warning("job %s: left without the broker: %s", attempt.job_id, brief(error))
                return Outcome.RELEASED
            if isinstance(error, redis.RedisError):
                THREADS.note(error)
                log.error(
                    "job %s: dropped, for the broker refuses what is written of it: %s", attempt.job_id, brief(error)
                )
                return Outcome.LOST
            outcome = self._after(attempt, error)
        log.info("job %s: attempt %d %s: %s", attempt.job_id, attempt.number, outcome, attempt.snapshot.status)
        if outcome is Outcome.ENDED and self._points.has_files:
            self._points.sweep()
        return outcome

    def render(self, hand: InHand, until: Callable[[Message], bool] | None = None) -> Outcome | None:
        """Goes on with a render, to its decoded frames or to a message of which `until` says so. What came of it, where
        that was its end. Raises EngineDied and MachineFault.
        """
        try:
            last = hand.follow(until)
        except (EngineDied, MachineFault):
            if not hand.asked_to_stop():
                raise
            hand.settle()
            return self.stop(hand)
        if isinstance(last, Faulty):
            raise last.fault
        if not isinstance(last, Refused | Stopped):
            return None
        hand.settle()
        if isinstance(last, Refused):
            folder = hand.output.parent
            return self.refuse(hand.attempt, last.error.replace(f"the file {folder}/", "").replace(f"{folder}/", ""))
        return self.stop(hand)

    def refuse(self, attempt: Attempt, error: str) -> Outcome:
        """The job cannot be done, as far as this machine can tell: where something is wrong with the machine, another
        one is to say so. Raises MachineFault.
        """
        if found := self._probe(None, 0):
            raise MachineFault(f"{error}; but that may be this machine's fault: {found}", found.kind, confirmed=True)
        return self.fail(attempt, error)

    def fail(self, attempt: Attempt, error: str) -> Outcome:
        """The job cannot be done: why, in a sentence."""
        log.error("job %s: %s", attempt.job_id, error)
        self._heartbeat.note_failure(attempt.job_id, error)
        self._patiently(self._ledger.commit, attempt, events.Failed(error=error))
        return Outcome.ENDED

    def stop(self, hand: InHand) -> Outcome:
        """What stopped it decides: cancel, loss, pause, or the worker's end."""
        attempt, keeper = hand.attempt, hand.keeper
        if keeper.cancelled.is_set():
            self._patiently(self._ledger.commit, attempt, events.Cancelled())
            return Outcome.ENDED
        if keeper.stale.is_set():
            return Outcome.LOST
        if keeper.broken.is_set():
            return self._give_back(attempt, keeper.why_broken)
        if keeper.paused.is_set():
            outcome = self._give_back(attempt, "paused")
            return Outcome.PAUSED if outcome is Outcome.RELEASED else outcome
        return self._give_back(attempt, f"worker {self._heartbeat.worker_name} is shutting down")

    def _after(self, attempt: Attempt, error: Exception) -> Outcome:
        """The attempt ended early; another one may do better. Raises what nobody expects."""
        died = error if isinstance(error, EngineDied) else None
        fault = died.fault if died else machine_fault(error)
        if fault is None and died is None:
            raise error
        if fault is None and (found := self._probe(None, 0)):
            fault = MachineFault(f"{error}; {found}", found.kind, confirmed=True)
        self._heartbeat.note_failure(attempt.job_id, str(error))
        try:
            job = self._ledger.job(attempt)
        except UnreadableJob as unreadable:
            return self.fail(attempt, str(unreadable))
        try:
            if fault is None:
                return self._give_back_after_death(attempt, job, str(error), alone=died is not None and died.alone)
            return self._give_back_for(attempt, job, fault, counts=died is None or died.alone)
        except StaleAttempt as stale:
            log.warning("job %s: %s; dropped", attempt.job_id, stale)
            return Outcome.LOST
        except Exception as outage:
            if not is_outage(outage):
                raise
            log.warning("job %s: left without the broker: %s", attempt.job_id, outage)
            return Outcome.RELEASED

    def _give_back_after_death(self, attempt: Attempt, job: Job, reason: str, *, alone: bool) -> Outcome:
        """It counts against a job that the engine had in hand alone, as it has every attempt but the first."""
        self._health.note_death(job, attempt.snapshot.step, reason)
        return self._give_back(attempt, reason, Strike.DEATH if alone else None)

    def _give_back_for(self, attempt: Attempt, job: Job, fault: MachineFault, *, counts: bool) -> Outcome:
        """What a probe finds is the machine's alone. What none finds counts against the job, should it be the one thing
        that all the machines have in common; at far higher limits than an engine's death of no known cause.
        """
        if not fault.confirmed and (found := self._probe(fault.kind, job.predicted_peak)):
            text = str(fault) if str(found) in str(fault) else f"{fault}; {found}"
            fault = MachineFault(text, found.kind, confirmed=True)
        log.warning("job %s: %s; it is given back", attempt.job_id, fault, exc_info=fault.__cause__)
        self._health.note_fault(fault, job, attempt.snapshot.step)
        reason = f"worker {self._heartbeat.worker_name} has a fault: {fault}"
        if fault.confirmed or not counts:
            return self._give_back(attempt, reason)
        strike = STRIKES.get(fault.kind, Strike.MISHAP)
        if strike is Strike.NOT_FINITE:
            return self._give_back_not_finite(attempt, job, fault, reason)
        times = POISON_LIMITS[strike]
        verdict = f"{fault}; {times} attempts ended early, and no fault of their machines was found that lasts"
        return self._give_back(attempt, reason, strike, verdict=verdict)

    def _give_back_not_finite(self, attempt: Attempt, job: Job, fault: MachineFault, reason: str) -> Outcome:
        """Another machine is to tell whose fault it is; where there is none, this one once more."""
        by, where = self._health.worker_id, "on a second machine too: it is the job's own doing"
        if not self._patiently(self._health.others_serve, job):
            by, where = f"{by}/{attempt.number}", "each time that it was tried, and no other machine serves the job"
        return self._give_back(attempt, reason, Strike.NOT_FINITE, by=by, verdict=f"{fault}, {where}")

    def _give_back(
        self, attempt: Attempt, reason: str, strike: Strike | None = None, *, by: str = "", verdict: str = ""
    ) -> Outcome:
        log.warning("job %s: %s", attempt.job_id, reason)
        status = self._patiently(self._ledger.release, attempt, reason, strike, by=by, verdict=verdict)
        return Outcome.RELEASED if status is Status.QUEUED else Outcome.ENDED

    def _patiently(self, write: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return until_redis_answers(self.leaving)(write, *args, **kwargs)
