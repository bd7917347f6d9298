"""How attempts go on, and how they end other than with a video: failed, cancelled, given back, or lost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from enum import StrEnum
from typing import ParamSpec, TypeVar

from ltx_client.protocol import events
from ltx_client.protocol.state import Status
from ltx_worker.engine.messages import Message, Refused, Stopped
from ltx_worker.engine.supervisor import EngineDied
from ltx_worker.health import Health
from ltx_worker.heartbeat import Heartbeat
from ltx_worker.in_hand import InHand
from ltx_worker.ledger import Attempt, Ledger, StaleAttempt, Strike
from ltx_worker.patience import AWAY, until_redis_answers
from ltx_worker.resume_points import ResumePoints

__all__ = ["Endings", "Outcome"]

log = logging.getLogger(__name__)


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
    """Writes them to the ledger, waiting for Redis while it is away; not any more once `leaving` is set."""

    def __init__(
        self, ledger: Ledger, points: ResumePoints, health: Health, heartbeat: Heartbeat, leaving: threading.Event
    ) -> None:
        self.leaving = leaving
        self._ledger = ledger
        self._health = health
        self._points = points
        self._heartbeat = heartbeat

    def see_through(self, attempt: Attempt, work: Callable[[], Outcome]) -> Outcome:
        """What comes of work on this attempt: LOST where another attempt has taken over meanwhile."""
        try:
            outcome = work()
        except StaleAttempt as error:
            log.warning("job %s: %s; dropped", attempt.job_id, error)
            return Outcome.LOST
        except AWAY as error:  # while leaving: the lease lapses, and the reaper brings the job to another worker
            log.warning("job %s: left without the broker: %s", attempt.job_id, error)
            return Outcome.RELEASED
        log.info("job %s: attempt %d %s: %s", attempt.job_id, attempt.number, outcome, attempt.snapshot.status)
        if outcome is Outcome.ENDED and self._points.has_files:
            self._points.sweep()
        return outcome

    def render(self, hand: InHand, until: Callable[[Message], bool] | None = None) -> Outcome | None:
        """Goes on with a render, to its decoded frames or to a message of which `until` says so. What came of it, where
        that was its end.
        """
        try:
            last = hand.follow(until)
        except EngineDied as error:
            hand.settle()
            if hand.asked_to_stop():
                return self.stop(hand)
            return self.give_back(hand, error)
        if not isinstance(last, Refused | Stopped):
            return None
        hand.settle()
        if isinstance(last, Refused):
            folder = hand.output.parent
            return self.fail(hand.attempt, last.error.replace(f"the file {folder}/", "").replace(f"{folder}/", ""))
        return self.stop(hand)

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
        if keeper.paused.is_set():
            outcome = self._give_back(attempt, "paused")
            return Outcome.PAUSED if outcome is Outcome.RELEASED else outcome
        return self._give_back(attempt, f"worker {self._heartbeat.worker_name} is shutting down")

    def give_back(self, hand: InHand, error: EngineDied) -> Outcome:
        """The engine died with it; another attempt may do better. It counts against a job that the engine had in hand
        alone, as it has every attempt but the first.
        """
        self._heartbeat.note_failure(hand.job.id, str(error))
        self._health.note_death(hand.job, hand.attempt.snapshot.step, str(error))
        strike = (Strike.HOST_FAULT if error.host_fault else Strike.DEATH) if error.alone else None
        return self._give_back(hand.attempt, str(error), strike)

    def _give_back(self, attempt: Attempt, reason: str, strike: Strike | None = None) -> Outcome:
        log.warning("job %s: %s", attempt.job_id, reason)
        status = self._patiently(self._ledger.release, attempt, reason, strike)
        return Outcome.RELEASED if status is Status.QUEUED else Outcome.ENDED

    def _patiently(self, write: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return until_redis_answers(self.leaving)(write, *args, **kwargs)
