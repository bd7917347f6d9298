"""Decides how attempts end other than with a video: failed, cancelled, given back, or lost."""

from __future__ import annotations

import logging
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
from ltx_worker.attempt.attempt import Attempt, WorkerContext
from ltx_worker.engine.messages import Faulty, Message, Refused, Stopped
from ltx_worker.engine.supervisor import EngineDied
from ltx_worker.ledger.ledger import POISON_LIMITS, StaleAttempt, Strike
from ltx_worker.threads.retrying import until_redis_answers
from ltx_worker.threads.watched import THREADS, brief

__all__ = ["Outcome", "Outcomes", "Step"]

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
    """The rest is done concurrently with the next render."""
    ENDED = "ended"
    RELEASED = "released"
    LOST = "lost"
    PAUSED = "paused"
    REFUSED = "refused"


Step = Callable[[Attempt], Outcome]
"""Takes an attempt as far as it goes, and tells what came of it."""


class Outcomes:
    """Write the ends of attempts to the ledger, and decide whether the job or the machine caused an early end.

    `machine_fault` and the machine's probes decide it. Writes wait while Redis is away, until the worker leaves.

    Attributes:
        probe: Returns what is wrong with this machine after a fault of the given kind (None: after no fault) in a
            render that needs the given bytes of memory.
    """

    def __init__(self, context: WorkerContext, probe: Callable[[FaultKind | None, int], MachineFault | None]) -> None:
        self._leaving = context.leaving
        self._health = context.health
        self._points = context.points
        self._heartbeat = context.heartbeat
        self._probe = probe

    def see_through(self, attempt: Attempt, step: Step) -> Outcome:
        """Take the attempt through a step; return what came of it: LOST where another attempt has taken over meanwhile.

        What is held for it is closed, before it is given back for the machine's fault. Whatever is raised, it is over.
        """
        try:
            return self._see(attempt, step)
        except BaseException:
            attempt.drop()
            raise

    def _see(self, attempt: Attempt, step: Step) -> Outcome:
        try:
            with attempt.held:
                outcome = step(attempt)
        except StaleAttempt as error:
            log.warning("job %s: %s; dropped", attempt.job_id, error)
            return self._lose(attempt)
        except Exception as error:  # noqa: BLE001 — what nobody expects is raised again
            if is_outage(error):  # while leaving: the lease lapses, and the reaper brings the job to another worker
                log.warning("job %s: left without the broker: %s", attempt.job_id, brief(error))
                attempt.drop()
                return Outcome.RELEASED
            if isinstance(error, redis.RedisError):
                THREADS.note(error)
                log.error(
                    "job %s: dropped, for the broker refuses what is written of it: %s", attempt.job_id, brief(error)
                )
                attempt.drop()
                return Outcome.LOST
            outcome = self._after(attempt, error)
        log.info("job %s: attempt %d %s: %s", attempt.job_id, attempt.number, outcome, attempt.snapshot.status)
        if outcome is Outcome.ENDED and self._points.has_files:
            self._points.sweep()
        return outcome

    def render(self, attempt: Attempt, until: Callable[[Message], bool] | None = None) -> Outcome | None:
        """Follow a render to its decoded frames, or to a message for which `until` is true; return its end, if any.

        Raises:
            EngineDied: The engine's process ended.
            MachineFault: The engine reported a fault of this machine.
        """
        try:
            last = attempt.follow(until)
        except (EngineDied, MachineFault):
            if not attempt.asked_to_stop():
                raise
            attempt.rendering.settle()
            return self.stop(attempt)
        if isinstance(last, Faulty):
            raise last.fault
        if not isinstance(last, Refused | Stopped):
            return None
        attempt.rendering.settle()
        if isinstance(last, Refused):
            folder = attempt.rendering.output.parent
            return self.refuse(attempt, last.error.replace(f"the file {folder}/", "").replace(f"{folder}/", ""))
        return self.stop(attempt)

    def refuse(self, attempt: Attempt, error: str) -> Outcome:
        """Fail a job that cannot be done, as far as this machine can tell.

        Raises:
            MachineFault: Something is wrong with this machine, so another one must decide.
        """
        if found := self._probe(None, 0):
            raise MachineFault(f"{error}; but that may be this machine's fault: {found}", found.kind, confirmed=True)
        return self.fail(attempt, error)

    def fail(self, attempt: Attempt, error: str) -> Outcome:
        """Fail a job that cannot be done: why, in a sentence."""
        log.error("job %s: %s", attempt.job_id, error)
        self._heartbeat.note_failure(attempt.job_id, error)
        self._patiently(attempt.commit, events.Failed(error=error))
        return Outcome.ENDED

    def stop(self, attempt: Attempt) -> Outcome:
        """End an attempt as what stopped it demands: cancel, loss, pause, or the worker's end."""
        keeper = attempt.keeper
        if keeper.cancelled.is_set():
            self._patiently(attempt.commit, events.Cancelled())
            return Outcome.ENDED
        if keeper.stale.is_set():
            return self._lose(attempt)
        if keeper.broken.is_set():
            return self._give_back(attempt, keeper.why_broken)
        if keeper.paused.is_set():
            outcome = self._give_back(attempt, "paused")
            return Outcome.PAUSED if outcome is Outcome.RELEASED else outcome
        return self._give_back(attempt, f"worker {self._heartbeat.worker_name} is shutting down")

    def _after(self, attempt: Attempt, error: Exception) -> Outcome:
        """Give back what ended early, for another attempt may do better. Raise what nobody expects."""
        died = error if isinstance(error, EngineDied) else None
        fault = died.fault if died else machine_fault(error)
        if fault is None and died is None:
            raise error
        if fault is None and (found := self._probe(None, 0)):
            fault = MachineFault(f"{error}; {found}", found.kind, confirmed=True)
        self._heartbeat.note_failure(attempt.job_id, str(error))
        try:
            job = attempt.job
        except UnreadableJob as unreadable:
            return self.fail(attempt, str(unreadable))
        try:
            if fault is None:
                return self._give_back_after_death(attempt, job, str(error), alone=died is not None and died.alone)
            return self._give_back_for(attempt, job, fault, counts=died is None or died.alone)
        except StaleAttempt as stale:
            log.warning("job %s: %s; dropped", attempt.job_id, stale)
            return self._lose(attempt)
        except Exception as outage:
            if not is_outage(outage):
                raise
            log.warning("job %s: left without the broker: %s", attempt.job_id, outage)
            attempt.drop()
            return Outcome.RELEASED

    def _give_back_after_death(self, attempt: Attempt, job: Job, reason: str, *, alone: bool) -> Outcome:
        """Count it against a job that the engine rendered alone, as it does every attempt but the first."""
        self._health.note_death(job, attempt.snapshot.position, reason)
        return self._give_back(attempt, reason, Strike.DEATH if alone else None)

    def _give_back_for(self, attempt: Attempt, job: Job, fault: MachineFault, *, counts: bool) -> Outcome:
        """Give a job back because of a fault.

        A fault that a probe confirms is the machine's alone. One that no probe finds also counts against the job, which
        may be what all the failing machines have in common; its limits are far higher than those of an engine that died
        of an unknown cause.
        """
        if not fault.confirmed and (found := self._probe(fault.kind, job.predicted_peak)):
            text = str(fault) if str(found) in str(fault) else f"{fault}; {found}"
            fault = MachineFault(text, found.kind, confirmed=True)
        log.warning("job %s: %s; it is given back", attempt.job_id, fault, exc_info=fault.__cause__)
        self._health.note_fault(fault, job, attempt.snapshot.position)
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
        """Have another machine tell whose fault it is; where there is none, this one once more."""
        by, where = self._health.worker_id, "on a second machine too: it is the job's own doing"
        if not self._patiently(self._health.others_serve, job):
            by, where = f"{by}/{attempt.number}", "each time that it was tried, and no other machine serves the job"
        return self._give_back(attempt, reason, Strike.NOT_FINITE, by=by, verdict=f"{fault}, {where}")

    def _give_back(
        self, attempt: Attempt, reason: str, strike: Strike | None = None, *, by: str = "", verdict: str = ""
    ) -> Outcome:
        log.warning("job %s: %s", attempt.job_id, reason)
        status = self._patiently(attempt.release, reason, strike, by=by, verdict=verdict)
        return Outcome.RELEASED if status is Status.QUEUED else Outcome.ENDED

    @staticmethod
    def _lose(attempt: Attempt) -> Outcome:
        attempt.lose()
        return Outcome.LOST

    def _patiently(self, write: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return until_redis_answers(self._leaving)(write, *args, **kwargs)
