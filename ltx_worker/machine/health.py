"""Decide whether this machine takes jobs.

It takes none while it has a fault, for a moment after its engine died, while an operator has paused it or its queue,
and while it is off duty.

A job whose attempt ended early here is left to other workers for a while. A fault of the machine pauses it until a
probe no longer finds the fault. After a fault that a job may have caused and that no probe finds, it rests as it does
after its engine died. When three jobs in a row ended so and other workers have rendered all of them since, the machine
takes no more jobs until an operator runs `ltx-worker resume`.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from ltx_client.protocol.jobs import Job, UnreadableJob
from ltx_client.protocol.state import Snapshot, Status
from ltx_models.errors import FaultKind, MachineFault
from ltx_worker.threads.background import Background

__all__ = ["Consumption", "Fitness", "Health"]

log = logging.getLogger(__name__)

LIMIT = 3
"""How many deaths in a row, with jobs that others rendered, stop a machine."""
FIRST_REST = 0.5
LONGEST_REST = 30.0
"""Seconds without jobs after the engine died: the first, doubled with each death in a row, and the most."""
FIRST_PAUSE = 2.0
LONGEST_PAUSE = 300.0
"""Seconds of a pause for a fault that no probe finds: the first, doubled likewise, and the most."""
FIRST_PROBE = 1.0
LONGEST_PROBE = 30.0
"""Seconds until the next probe for a fault: the first, doubled each time that the fault is found, and the most."""
JOBS_MAY_CAUSE = frozenset(
    {
        FaultKind.MEMORY,
        FaultKind.GPU,
        FaultKind.DISPLAY,
        FaultKind.FFMPEG,
        FaultKind.MODEL,
        FaultKind.NUMBERS,
        FaultKind.INPUT,
    }
)
"""Faults that one job may cause on every machine: they must not pause one machine after another."""
REMEMBERED = 100
"""How many attempts that ended early are remembered."""
CHECK_EVERY = 0.25


class Consumption(Protocol):
    """Controls whether the worker receives messages. Both methods may be called repeatedly."""

    def stop(self) -> None:
        """Receive no more messages."""

    def start(self) -> None:
        """Receive messages again."""


class Fitness(StrEnum):
    """Whether a machine takes jobs, and if not, for which kind of reason."""

    FIT = "fit"
    RESTING = "resting"
    PAUSED = "paused"
    UNREADY = "unready"
    PAUSED_BY_USER = "held"
    OFF_DUTY = "off duty"


@dataclass(frozen=True)
class _Death:
    """An attempt that ended early.

    Attributes:
        job: the job.
        position: how far its render had come, as `Snapshot.position` says it.
        at: when it ended, in monotonic seconds.
        reason: why, in a sentence.
        kind: the kind of the machine's fault, if it was one.
        confirmed: whether a probe has found that fault.
    """

    job: Job
    position: tuple[int, int]
    at: float
    reason: str
    kind: FaultKind | None = None
    confirmed: bool = False


def _is_to_be_left(death: _Death, since: float) -> bool:
    return death.at > since or death.kind is FaultKind.NUMBERS


@dataclass(frozen=True)
class _Fault:
    """A fault of the machine, when to probe for it next (monotonic seconds), and the wait before that probe."""

    fault: MachineFault
    probe_at: float
    wait: float


class Health(Background):
    """A thread that stops and starts the consumption of messages by the machine's state.

    Args:
        worker_id: this worker's id.
        read: returns a job's state.
        others_serve: whether another worker, which is not paused, takes jobs like this one.
        hand_on: seconds for which a job whose attempt ended early here is left to other workers, if there are any.
        why_off_duty: returns why the machine takes no new jobs for now, in a sentence, or ""; called often.
        probe: returns what is wrong with the machine after a fault of this kind, or None.
        note: is called with the kind of each fault.

    Attributes:
        changed: is called when the machine was paused or unpaused.
    """

    def __init__(
        self,
        worker_id: str,
        read: Callable[[str], Snapshot],
        others_serve: Callable[[Job], bool],
        *,
        hand_on: float,
        why_off_duty: Callable[[], str] = str,
        probe: Callable[[FaultKind], MachineFault | None] = lambda _: None,
        note: Callable[[FaultKind], object] = lambda _: None,
    ) -> None:
        super().__init__("health")
        self.worker_id = worker_id
        self.others_serve = others_serve
        self.changed: Callable[[], object] = lambda: None
        self._read = read
        self._hand_on = hand_on
        self._ask_off_duty = why_off_duty
        self._probe = probe
        self._count = note
        self._off_duty = why_off_duty()
        self._deaths: deque[_Death] = deque(maxlen=REMEMBERED)
        self._succeeded_at = 0.0
        self._rest_until = 0.0
        self._fault: _Fault | None = None
        self._paused = ""
        self._user_pause = ""
        self._consumption: Consumption | None = None
        self._consuming = True

    def control(self, consumption: Consumption) -> None:
        """Set what is stopped and started; call it before `start`."""
        self._consumption = consumption

    @property
    def fitness(self) -> Fitness:
        """Return whether the machine takes jobs, or for which kind of reason it does not."""
        if self._paused or self._fault:
            return Fitness.PAUSED
        if self._threads.why_unready:
            return Fitness.UNREADY
        if time.monotonic() < self._rest_until:
            return Fitness.RESTING
        if self._user_pause:
            return Fitness.PAUSED_BY_USER
        return Fitness.OFF_DUTY if self._off_duty else Fitness.FIT

    @property
    def why_paused(self) -> str:
        """Return why the machine takes no jobs, in a sentence; "" while it does."""
        if self._paused:
            return self._paused
        if fault := self._fault:
            return f"{fault.fault}; it takes jobs again by itself once that is over"
        if self._threads.why_unready:
            return self._threads.why_unready
        if self.fitness is Fitness.RESTING and self._deaths:
            return f"it rests for a moment after a failure: {self._deaths[-1].reason}"
        return self._user_pause or self._off_duty

    def note_death(self, job: Job, position: tuple[int, int], reason: str) -> None:
        """Record that the engine died during a job."""
        self._deaths.append(_Death(job, position, time.monotonic(), reason))
        self._rest()

    def note_fault(self, fault: MachineFault, job: Job | None = None, position: tuple[int, int] = (0, 0)) -> None:
        """Record a fault of the machine.

        Args:
            fault: the fault.
            job: the job whose attempt it ended, if any.
            position: how far that attempt had come.
        """
        now = time.monotonic()
        if job is not None:
            self._deaths.append(_Death(job, position, now, str(fault), fault.kind, fault.confirmed))
        self._count(fault.kind)
        if job is not None and fault.kind in JOBS_MAY_CAUSE and not fault.confirmed:
            log.warning("this machine takes no jobs for a moment: %s", fault)
            self._rest()
            return
        is_new = self._fault is None
        wait = FIRST_PROBE if fault.confirmed else _doubled(FIRST_PAUSE, len(self._in_a_row) - 1, LONGEST_PAUSE)
        self._fault = _Fault(fault, now + wait, wait)
        if is_new:
            log.critical("this machine takes no jobs for now: %s", fault)
        self._stop_consuming()
        self.changed()

    def _rest(self) -> None:
        rest = _doubled(FIRST_REST, len(self._in_a_row) - 1, LONGEST_REST)
        self._rest_until = time.monotonic() + rest
        self._stop_consuming()  # before its message is given back: one received while resting is left to the reaper
        self.changed()

    @property
    def _in_a_row(self) -> list[_Death]:
        """Return the deaths since the last success."""
        return [death for death in self._deaths.copy() if death.at > self._succeeded_at]

    def note_success(self) -> None:
        """Record that a job was rendered here: earlier failures were not this machine's fault."""
        self._succeeded_at = time.monotonic()

    def resume(self) -> None:
        """Forget faults and failures, because an operator has examined the machine."""
        self._deaths.clear()
        self._paused, self._rest_until, self._fault = "", 0.0, None

    def set_user_pause(self, why: str) -> bool:
        """Set why an operator has paused this machine or its queue; return whether that has changed.

        The current job is rendered to its end.

        Args:
            why: a sentence, or "" when the pause is over.
        """
        has_changed, self._user_pause = why != self._user_pause, why
        if has_changed:
            log.info("takes no new jobs: %s", why) if why else log.info("takes jobs again")
        if why:
            self._stop_consuming()
        return has_changed

    def left_to_others(self) -> set[str]:
        """Return the ids of jobs that are left to other machines, if any serve such jobs.

        A job whose attempt ended early is left for a while. One that gave NaN is left for as long as there are other
        machines, since only a second machine shows whether the job or this one causes it.
        """
        since = time.monotonic() - self._hand_on
        ended = {death.job.id: death.job for death in self._deaths.copy() if _is_to_be_left(death, since)}
        return {job_id for job_id, job in ended.items() if self.others_serve(job)}

    def _cycle(self) -> None:
        assert self._consumption is not None
        if self._stopped.wait(CHECK_EVERY):
            return
        if self.fitness is not Fitness.FIT:
            self._stop_consuming()  # again each time: a new connection consumes again
        elif not self._consuming:
            self._consuming = True
            self._consumption.start()
        self._off_duty = self._ask_off_duty()
        self._probe_again()
        try:
            self._consider()
        except UnreadableJob as error:
            self._note(error)

    def _probe_again(self) -> None:
        """Probe for the known fault, if that is due; end the pause if the fault is gone."""
        known = self._fault
        if known is None or time.monotonic() < known.probe_at:
            return
        found = self._probe(known.fault.kind)
        if self._fault is not known:  # resumed, or replaced by another fault
            return
        if found is None:
            self._fault = None
            log.warning("this machine takes jobs again; this fault is over: %s", known.fault)
            self.changed()
        else:
            wait = min(2 * known.wait, LONGEST_PROBE) if known.fault.confirmed else FIRST_PROBE
            self._fault = _Fault(found, time.monotonic() + wait, wait)

    def _stop_consuming(self) -> None:
        if self._consumption is not None:
            self._consuming = False
            self._consumption.stop()

    def _consider(self) -> None:
        deaths = [death for death in self._in_a_row if not death.confirmed]
        last = {death.job.id: death for death in deaths}
        if self._paused or len(last) < LIMIT or len(deaths) < LIMIT:
            return
        newest = sorted(last.values(), key=lambda death: death.at)[-LIMIT:]
        if all(death.kind is None or death.kind in JOBS_MAY_CAUSE for death in newest) and all(
            self._rendered_elsewhere(death) for death in newest
        ):
            self._paused = f"{LIMIT} jobs in a row ended early here that others rendered; {newest[-1].reason}"
            log.critical("this machine takes no more jobs: %s", self._paused)
            self.changed()

    def _rendered_elsewhere(self, death: _Death) -> bool:
        snapshot = self._read(death.job.id)
        elsewhere = snapshot.worker not in (None, self.worker_id)
        return elsewhere and (snapshot.status is Status.DONE or snapshot.position > death.position)


def _doubled(first: float, times: int, most: float) -> float:
    return min(first * 2.0 ** min(max(times, 0), 30), most)
