"""Whether this machine takes jobs: after its engine died it rests, and where others do its jobs, it stops; not while
somebody has paused it or its queue; and not while it is off duty, for reasons of its owner's.

A job whose engine died here is left to others for a while. A machine on which the engine died with three jobs in a row
that others have rendered since takes no more, until somebody has looked at it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import redis

from ltx_client.protocol.jobs import Job, UnreadableJob
from ltx_client.protocol.state import Snapshot, Status
from ltx_worker.background import Background

__all__ = ["Consumption", "Fitness", "Health"]

log = logging.getLogger(__name__)

LIMIT = 3
"""So many deaths in a row, with jobs that others render, have a machine stop."""
FIRST_REST = 0.5
LONGEST_REST = 30.0
"""Seconds that a machine takes no job after its engine died: the first time, doubled with each death in a row."""
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
    HELD = "held"
    OFF_DUTY = "off duty"


@dataclass(frozen=True)
class _Death:
    """The engine died with this job, when `step` of it was done, at `at` (monotonic seconds)."""

    job: Job
    step: int
    at: float
    reason: str


class Health(Background):
    """A thread that stops and starts the consumption as the machine's state demands.

    read: a job's state.  others_serve: whether another worker, which is not paused, takes jobs like this one.
    hand_on: seconds that a job whose engine died here is left to the others, if there are any.
    why_off_duty: why the machine takes no new jobs for now, in a sentence, or nothing; asked often.
    """

    def __init__(
        self,
        worker_id: str,
        read: Callable[[str], Snapshot],
        others_serve: Callable[[Job], bool],
        *,
        hand_on: float,
        why_off_duty: Callable[[], str] = str,
    ) -> None:
        super().__init__("health")
        self._worker_id = worker_id
        self._read = read
        self._others_serve = others_serve
        self._hand_on = hand_on
        self._ask_off_duty = why_off_duty
        self._off_duty = why_off_duty()
        self._deaths: list[_Death] = []
        self._rest_until = 0.0
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
        if self._paused:
            return Fitness.PAUSED
        if time.monotonic() < self._rest_until:
            return Fitness.RESTING
        if self._held:
            return Fitness.HELD
        return Fitness.OFF_DUTY if self._off_duty else Fitness.FIT

    @property
    def why_paused(self) -> str:
        """A sentence, or nothing while the machine is neither paused nor held nor off duty."""
        return self._paused or self._held or self._off_duty

    def note_death(self, job: Job, step: int, reason: str) -> None:
        """The engine died with this job."""
        self._deaths.append(_Death(job, step, time.monotonic(), reason))
        self._rest_until = time.monotonic() + min(FIRST_REST * 2 ** (len(self._deaths) - 1), LONGEST_REST)
        self._stop_consuming()  # before its message is given back: what is taken while resting is left to the reaper

    def note_success(self) -> None:
        """A job was rendered here: what came before was not this machine's fault."""
        self._deaths.clear()

    def resume(self) -> None:
        """Somebody has looked at the machine: it begins anew."""
        self._deaths.clear()
        self._paused, self._rest_until = "", 0.0

    def hold(self, why: str) -> bool:
        """Somebody has paused this machine, or its queue: why, in a sentence; or nothing, when that is over. Returns
        whether that is news. The job in hand is rendered to its end.
        """
        news, self._held = why != self._held, why
        if news:
            log.info("takes no new jobs: %s", why) if why else log.info("takes jobs again: it was resumed")
        if why:
            self._stop_consuming()
        return news

    def leaves_to_others(self, job_id: str) -> bool:
        """Whether a message for this job should be left to other machines for now."""
        if self.fitness is not Fitness.FIT:
            return True
        since = time.monotonic() - self._hand_on
        died = next((death for death in self._deaths if death.job.id == job_id and death.at > since), None)
        return died is not None and self._others_serve(died.job)

    def _run(self) -> None:
        assert self._consumption is not None
        while not self._stopped.wait(LOOK_EVERY):
            self._off_duty = self._ask_off_duty()
            try:
                self._consider()
            except redis.RedisError as error:
                log.warning("health: the broker is away: %s", error)
            except UnreadableJob as error:
                log.warning("health: what became of a job here cannot be read: %s", error)
            if self.fitness is not Fitness.FIT:
                self._stop_consuming()  # again each time: a connection that was lost has begun anew
            elif not self._consuming:
                self._consuming = True
                self._consumption.start()

    def _stop_consuming(self) -> None:
        if self._consumption is not None:
            self._consuming = False
            self._consumption.stop()

    def _consider(self) -> None:
        last = {death.job.id: death for death in self._deaths}
        if self._paused or len(last) < LIMIT or len(self._deaths) < LIMIT:
            return
        newest = sorted(last.values(), key=lambda death: death.at)[-LIMIT:]
        if all(self._rendered_elsewhere(death) for death in newest):
            self._paused = f"its render process died on {LIMIT} jobs in a row that others rendered; {newest[-1].reason}"
            log.critical("this machine takes no more jobs: %s", self._paused)

    def _rendered_elsewhere(self, death: _Death) -> bool:
        snapshot = self._read(death.job.id)
        elsewhere = snapshot.worker not in (None, self._worker_id)
        return elsewhere and (snapshot.status is Status.DONE or snapshot.step > death.step)
