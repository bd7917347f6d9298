"""Whether this machine takes jobs: not while something is wrong with it; after its engine died it rests, and where
others do its jobs, it stops; not while somebody has paused it or its queue; and not while it is off duty, for reasons
of its owner's.

A job whose attempt ended early here is left to others for a while. A fault of the machine pauses it until a probe finds
it gone. After one that a job may have caused, and no probe finds, it rests, as after a dead engine; and a machine on
which three jobs in a row ended so, all of which others have rendered since, takes no more until somebody has looked at
it.
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
"""So many deaths in a row, with jobs that others render, have a machine stop."""
FIRST_REST = 0.5
LONGEST_REST = 30.0
"""Seconds that a machine takes no job after its engine died: the first time, doubled with each death in a row."""
FIRST_PAUSE = 2.0
LONGEST_PAUSE = 300.0
"""Seconds of a pause for a fault that no probe finds, likewise."""
FIRST_PROBE = 1.0
LONGEST_PROBE = 30.0
"""Seconds until a fault is probed for again: the first time, doubled each time that it is still there."""
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
"""Faults that one job may meet on every machine: they must not pause one machine after another."""
REMEMBERED = 100
"""Attempts that ended early."""
LOOK_EVERY = 0.25


class Consumption(Protocol):
    """The worker's taking of messages. Both may be said again and again."""

    def stop(self) -> None:
        """Takes no more."""

    def start(self) -> None:
        """Takes them again."""


class Fitness(StrEnum):
    """What a machine is fit for."""

    FIT = "fit"
    RESTING = "resting"
    PAUSED = "paused"
    UNREADY = "unready"
    HELD = "held"
    OFF_DUTY = "off duty"


@dataclass(frozen=True)
class _Death:
    """An attempt at this job ended early, when `step` of it was done, at `at` (monotonic seconds).

    kind: of the fault, where it was one of the machine's.  confirmed: whether a probe has found that.
    """

    job: Job
    step: int
    at: float
    reason: str
    kind: FaultKind | None = None
    confirmed: bool = False


def _is_to_be_left(death: _Death, since: float) -> bool:
    return death.at > since or death.kind is FaultKind.NUMBERS


@dataclass(frozen=True)
class _Fault:
    """What is wrong with the machine, and when to probe for it again (monotonic seconds); then after `wait` seconds."""

    fault: MachineFault
    probe_at: float
    wait: float


class Health(Background):
    """A thread that stops and starts the consumption as the machine's state demands.

    read: a job's state.  others_serve: whether another worker, which is not paused, takes jobs like this one.
    hand_on: seconds that a job whose attempt ended early here is left to the others, if there are any.
    why_off_duty: why the machine takes no new jobs for now, in a sentence, or nothing; asked often.
    probe: what is wrong with the machine, after a fault of this kind, if anything is.
    note: gets each fault's kind.  changed: called when the machine is paused, or no more.
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
        self._held = ""
        self._consumption: Consumption | None = None
        self._consuming = True

    def control(self, consumption: Consumption) -> None:
        """What is to be stopped and started; said before `start`."""
        self._consumption = consumption

    @property
    def fitness(self) -> Fitness:
        """Whether the machine takes jobs."""
        if self._paused or self._fault:
            return Fitness.PAUSED
        if self._threads.why_unready:
            return Fitness.UNREADY
        if time.monotonic() < self._rest_until:
            return Fitness.RESTING
        if self._held:
            return Fitness.HELD
        return Fitness.OFF_DUTY if self._off_duty else Fitness.FIT

    @property
    def why_paused(self) -> str:
        """A sentence, or nothing while the machine takes jobs."""
        if self._paused:
            return self._paused
        if fault := self._fault:
            return f"{fault.fault}; it takes jobs again by itself once that is over"
        if self._threads.why_unready:
            return self._threads.why_unready
        if self.fitness is Fitness.RESTING and self._deaths:
            return f"it rests a moment after this: {self._deaths[-1].reason}"
        return self._held or self._off_duty

    def note_death(self, job: Job, step: int, reason: str) -> None:
        """The engine died with this job."""
        self._deaths.append(_Death(job, step, time.monotonic(), reason))
        self._rest()

    def note_fault(self, fault: MachineFault, job: Job | None = None, step: int = 0) -> None:
        """Something is wrong with the machine, which an attempt at this job has ended of, if there was one."""
        now = time.monotonic()
        if job is not None:
            self._deaths.append(_Death(job, step, now, str(fault), fault.kind, fault.confirmed))
        self._count(fault.kind)
        if job is not None and fault.kind in JOBS_MAY_CAUSE and not fault.confirmed:
            log.warning("this machine takes no jobs for a moment: %s", fault)
            self._rest()
            return
        news = self._fault is None
        wait = FIRST_PROBE if fault.confirmed else _doubled(FIRST_PAUSE, len(self._in_a_row) - 1, LONGEST_PAUSE)
        self._fault = _Fault(fault, now + wait, wait)
        if news:
            log.critical("this machine takes no jobs for now: %s", fault)
        self._stop_consuming()
        self.changed()

    def _rest(self) -> None:
        rest = _doubled(FIRST_REST, len(self._in_a_row) - 1, LONGEST_REST)
        self._rest_until = time.monotonic() + rest
        self._stop_consuming()  # before its message is given back: what is taken while resting is left to the reaper
        self.changed()

    @property
    def _in_a_row(self) -> list[_Death]:
        """Those since the last success."""
        return [death for death in self._deaths.copy() if death.at > self._succeeded_at]

    def note_success(self) -> None:
        """A job was rendered here: what came before was not this machine's fault."""
        self._succeeded_at = time.monotonic()

    def resume(self) -> None:
        """Somebody has looked at the machine: it begins anew."""
        self._deaths.clear()
        self._paused, self._rest_until, self._fault = "", 0.0, None

    def hold(self, why: str) -> bool:
        """Somebody has paused this machine, or its queue: why, in a sentence; or nothing, when that is over. Returns
        whether that is news. The job in hand is rendered to its end.
        """
        news, self._held = why != self._held, why
        if news:
            log.info("takes no new jobs: %s", why) if why else log.info("takes jobs again")
        if why:
            self._stop_consuming()
        return news

    def left_to_others(self) -> set[str]:
        """The ids of jobs that other machines should render, if there are any: for a while, but one of which NaN came
        out for as long as there are others, for only a second machine can tell whose fault that is.
        """
        since = time.monotonic() - self._hand_on
        ended = {death.job.id: death.job for death in self._deaths.copy() if _is_to_be_left(death, since)}
        return {job_id for job_id, job in ended.items() if self.others_serve(job)}

    def _cycle(self) -> None:
        assert self._consumption is not None
        if self._stopped.wait(LOOK_EVERY):
            return
        if self.fitness is not Fitness.FIT:
            self._stop_consuming()  # again each time: a connection that was lost has begun anew
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
        """Ends the pause for a fault that is gone."""
        known = self._fault
        if known is None or time.monotonic() < known.probe_at:
            return
        found = self._probe(known.fault.kind)
        if self._fault is not known:  # resumed, or something else is wrong by now
            return
        if found is None:
            self._fault = None
            log.warning("this machine takes jobs again; gone is: %s", known.fault)
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
        return elsewhere and (snapshot.status is Status.DONE or snapshot.step > death.step)


def _doubled(first: float, times: int, most: float) -> float:
    return min(first * 2.0 ** min(max(times, 0), 30), most)
