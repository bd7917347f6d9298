"""Tell the farm that this worker is alive, by a hash that expires unless it is renewed; read the worker's pauses."""

from __future__ import annotations

import contextlib
import logging
import platform
import sys
import threading
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import redis

from ltx_client.protocol.changes.messages import UNTOLD, WorkerCame, WorkerChanged, WorkerLeft
from ltx_client.protocol.clock import CLOCK
from ltx_client.protocol.pauses import parse_pause, queue_field, why_paused, worker_field
from ltx_client.protocol.text import printable
from ltx_client.protocol.versions.features import features_of_this_version
from ltx_client.protocol.workers import OFF_DUTY, PAUSED, PAUSED_BY_USER, UNREADY, WorkerInfo
from ltx_client.shared.lua.lua_script import RegisteredScript
from ltx_client.shared.unexpected_data import tell_once
from ltx_models.errors import FaultKind, MachineFault
from ltx_models.memory import machine_memory
from ltx_worker.ledger.scripts import BEAT, LEAVE
from ltx_worker.machine.health import Fitness, Health
from ltx_worker.machine.system_programs import output_of
from ltx_worker.machine.thermal import Thermometer
from ltx_worker.membership.common_storage import CommonStorage
from ltx_worker.membership.identity import Identity
from ltx_worker.membership.restart_safety import RestartSafety
from ltx_worker.settings import WorkerSettings
from ltx_worker.threads.background import LONGEST_PAUSE, Background
from ltx_worker.threads.watched import LIMIT

__all__ = ["Heartbeat", "chip_name"]

log = logging.getLogger(__name__)

AT_MOST_EVERY = 0.2
"""The least number of seconds between two beats, however short the jobs are."""
LONGEST_FAILURE = 500
"""Characters."""
MISSED_BEATS = 3
"""How many beats a worker may miss before it counts as gone."""
FORGOTTEN_AFTER = 24 * 3600.0
"""Seconds after which a worker's id is removed from the list too; the workers' clocks may differ."""


class Heartbeat(Background):
    """A thread that writes `worker:{id}` every few seconds, and at once when the state changes.

    Args:
        settings: the worker's settings.
        client: of the broker.
        variant: the variant that the worker serves.
        health: decides whether the worker takes jobs.
        storage: the id of the storage that the worker uses.
    """

    def __init__(
        self, settings: WorkerSettings, client: redis.Redis, variant: str, health: Health, storage: str = ""
    ) -> None:
        every = settings.worker_heartbeat_every
        super().__init__("heartbeat", limit=LIMIT + every, longest_pause=min(LONGEST_PAUSE, every))
        self._identity = Identity(settings)
        self.variant = variant
        self.worker_name = settings.worker_name
        self._health = health
        self.chip = printable(chip_name())
        self._client = client
        self._names = settings.names
        self._tell_script = RegisteredScript(client, BEAT)
        self._leave_script = RegisteredScript(client, LEAVE)
        self._every = settings.worker_heartbeat_every
        self._info = WorkerInfo(
            id=self.worker_id,
            name=settings.worker_name,
            chip=self.chip,
            memory=machine_memory(),
            budget_gb=settings.worker_memory_gb,
            gpu_gb=settings.gpu_gb,
            variant=variant,
            version=metadata.version("ltx-farm"),
            run=self._identity.run,
            storage=storage,
            features=features_of_this_version(),
            started_at=CLOCK.now(),
            seen_at=CLOCK.now(),
        )
        self._started = time.monotonic()
        self._failed = 0.0
        self._notes: list[str] = []
        self._current_jobs: list[str] = []
        self._thermometer = Thermometer()
        self._safety = RestartSafety(client, settings.names)
        self._common_storage = CommonStorage(client, settings.names)
        self._wake = threading.Event()
        health.changed = self._wake.set

    @property
    def worker_id(self) -> str:
        """Return this worker's id; it changes when another machine was found to use the same one."""
        return self._identity.worker_id

    @property
    def run(self) -> str:
        """Return the id of this process's run."""
        return self._identity.run

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._wake.set()
        super().stop()

    def leave(self) -> None:
        """Remove the worker from the farm's list."""
        worker, workers = self._names.worker(self.worker_id), self._names.workers()
        left = WorkerLeft(worker=self.worker_id, name=self.worker_name).model_dump_json()
        told = {"changes": self._names.changes(), "left": left}
        with contextlib.suppress(redis.RedisError):
            self._leave_script(worker=worker, workers=workers, id=self.worker_id, run=self.run, **told)

    def note_failure(self, job_id: str, reason: str) -> None:
        """Record a failed attempt, which is shown as the worker's last failure."""
        self._info = self._info.model_copy(update={"failure": reason[:LONGEST_FAILURE], "failed_job": job_id})
        self._failed = time.monotonic()

    def add_note(self, note: str) -> None:
        """Show a sentence to operators for as long as this process runs; ignore an empty one."""
        self._notes += [note] if note else []
        self._wake.set()

    @contextlib.contextmanager
    def busy(self, job_id: str) -> Iterator[None]:
        """Show the worker as rendering this job while inside; of several jobs, the first is shown."""
        self._current_jobs = [*self._current_jobs, job_id]
        self._wake.set()
        try:
            yield
        finally:
            self._current_jobs = [other for other in self._current_jobs if other != job_id]
            self._wake.set()

    def _cycle(self) -> None:
        self._wake.clear()
        self._tell()
        if not self._stopped.wait(min(AT_MOST_EVERY, self._every)):
            self._wake.wait(self._every)

    def _tell(self) -> None:
        CLOCK.measure(self._client)
        info, names, identity = self.info(), self._names, self._identity
        pause_fields = [worker_field(info.id), queue_field(self.variant)]
        fields = sorted(info.fields().items(), key=lambda pair: pair[0] in UNTOLD)
        about = {
            "worker": info.id,
            **info.model_dump(include={"name", "variant", "state", "job", "why_paused"}),
        }
        reply: Any = self._tell_script(
            worker=names.worker(info.id),
            workers=names.workers(),
            paused=names.paused(),
            id=info.id,
            run=identity.run,
            former_run=identity.former_run,
            seen_at=info.seen_at,
            ttl_ms=round(self._every * MISSED_BEATS * 1000),
            forgotten_at=info.seen_at - FORGOTTEN_AFTER,
            worker_field=pause_fields[0],
            queue_field=pause_fields[1],
            changes=names.changes(),
            came=WorkerCame(**about).model_dump_json(),
            changed=WorkerChanged(**about).model_dump_json(),
            told=sum(name not in UNTOLD for name, _ in fields),
            fields=[part for pair in fields for part in pair],
        )
        *values, other, damaged = reply
        if identity.meets(other):
            identity.draw()
            self._health.worker_id = identity.worker_id
            self._wake.set()
            return
        if damaged is not None:
            tell_once(f"the key {damaged.decode()} had a value of the wrong kind, and was replaced")
        pauses = [parse_pause(*pair) for pair in zip(pause_fields, values, strict=True) if pair[1] is not None]
        if self._health.set_user_pause("; ".join(filter(None, (why_paused(pauses), self._safety.why_not())))):
            self._wake.set()  # so that everybody sees it
        if self._common_storage.is_due():
            self.compare_storage()

    def compare_storage(self) -> None:
        """Record a fault of the machine if its storage is not that of the other workers.

        Raises:
            redis.RedisError: the broker does not answer, or refuses.
        """
        try:
            self.check_storage()
        except MachineFault as fault:
            if str(fault) not in self._health.why_paused:
                self._health.note_fault(fault)

    def check_storage(self) -> None:
        """Check that the storage is that of the other workers.

        Raises:
            MachineFault: it is another one.
            redis.RedisError: the broker does not answer, or refuses.
        """
        if why := self._common_storage.why_not(self.info()):
            raise MachineFault(why, FaultKind.STORAGE, confirmed=True)

    def info(self) -> WorkerInfo:
        """Return the worker's record as of now."""
        job, heat = next(iter(self._current_jobs), ""), self._thermometer.read()
        now, ticks, drew_for = CLOCK.now(), time.monotonic(), self._identity.drew_for
        cloned = [f"another machine has its former id {drew_for}, as after a disk was cloned"] if drew_for else []
        update = {
            "id": self.worker_id,
            "job": job,
            "started_at": now - (ticks - self._started),
            "seen_at": now,
            "failed_at": now - (ticks - self._failed) if self._failed else None,
            "note": "; ".join([*cloned, *self._notes]),
            "why_paused": self._health.why_paused,
            "temperature": heat.temperature,
            "thermal_pressure": heat.pressure,
            "threads": self._threads.infos(),
        }
        match self._health.fitness:
            case Fitness.PAUSED:
                state = PAUSED
            case Fitness.UNREADY:
                state = UNREADY
            case Fitness.RESTING:
                state = "resting"
            case Fitness.PAUSED_BY_USER if not job:
                state = PAUSED_BY_USER
            case Fitness.OFF_DUTY if not job:  # the current job is rendered to its end
                state = OFF_DUTY
            case _:
                state = "rendering" if job else "idle"
        return self._info.model_copy(update={"state": state, **update})


def chip_name() -> str:
    """Return the maker's name of the processor."""
    if sys.platform == "darwin":
        return output_of("sysctl", "-n", "machdep.cpu.brand_string").strip() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else []:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
