"""Tells the farm that this worker is alive: a hash that expires when nobody renews it. Hears if it was paused."""

from __future__ import annotations

import contextlib
import logging
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import redis

from ltx_client.protocol.damage import is_wrong_type, tell_once
from ltx_client.protocol.pauses import parse_pause, queue_field, why_held, worker_field
from ltx_client.protocol.text import printable
from ltx_client.protocol.workers import HELD, OFF_DUTY, PAUSED, UNREADY, WorkerInfo
from ltx_worker.background import LONGEST_PAUSE, Background
from ltx_worker.health import Fitness, Health
from ltx_worker.restart_safety import RestartSafety
from ltx_worker.settings import WorkerSettings, machine_id
from ltx_worker.thermal import Thermometer
from ltx_worker.threads import LIMIT

__all__ = ["Heartbeat", "chip_name"]

log = logging.getLogger(__name__)

AT_MOST_EVERY = 0.2
"""Seconds between two beats at least, however short the jobs are."""
LONGEST_FAILURE = 500
"""Characters."""
MISSED_BEATS = 3
"""A worker is gone after so many."""
FORGOTTEN_AFTER = 24 * 3600.0
"""Seconds, by a clock that may differ from the other workers', after which its id goes from the list too."""


class Heartbeat(Background):
    """Writes `worker:{id}` every few seconds from a thread of its own, and at once when the state changes."""

    def __init__(self, settings: WorkerSettings, client: redis.Redis, variant: str, health: Health) -> None:
        every = settings.worker_heartbeat_every
        super().__init__("heartbeat", limit=LIMIT + every, longest_pause=min(LONGEST_PAUSE, every))
        self.worker_id = machine_id(settings)
        self.variant = variant
        self.worker_name = settings.worker_name
        self._health = health
        self.chip = printable(chip_name())
        self._client = client
        self._key = settings.names.worker(self.worker_id)
        self._list = settings.names.workers()
        self._paused = settings.names.paused()
        self._pause_fields = [worker_field(self.worker_id), queue_field(variant)]
        self._every = settings.worker_heartbeat_every
        self._info = WorkerInfo(
            id=self.worker_id,
            name=settings.worker_name,
            chip=self.chip,
            memory=psutil.virtual_memory().total,
            budget_gb=settings.worker_memory_gb,
            variant=variant,
            version=metadata.version("ltx-farm"),
            started_at=time.time(),
            seen_at=time.time(),
        )
        self._in_hand: list[str] = []
        self._thermometer = Thermometer()
        self._safety = RestartSafety(client, settings.names)
        self._wake = threading.Event()
        health.changed = self._wake.set

    def stop(self) -> None:
        """Beats no more."""
        self._stopped.set()
        self._wake.set()
        super().stop()

    def leave(self) -> None:
        """Takes the worker off the farm's list."""
        with contextlib.suppress(redis.RedisError):
            self._client.delete(self._key)
            self._client.zrem(self._list, self.worker_id)

    def note_failure(self, job_id: str, reason: str) -> None:
        """An attempt of this worker's failed: shown as its last failure."""
        self._info = self._info.model_copy(
            update={"failure": reason[:LONGEST_FAILURE], "failed_job": job_id, "failed_at": time.time()}
        )

    @contextlib.contextmanager
    def busy(self, job_id: str) -> Iterator[None]:
        """While inside, the worker shows as rendering this job; of several, the one that began first."""
        self._in_hand = [*self._in_hand, job_id]
        self._wake.set()
        try:
            yield
        finally:
            self._in_hand = [other for other in self._in_hand if other != job_id]
            self._wake.set()

    def _cycle(self) -> None:
        self._wake.clear()
        self._tell()
        if not self._stopped.wait(min(AT_MOST_EVERY, self._every)):
            self._wake.wait(self._every)

    def _tell(self) -> None:
        info = self.info()
        fields: Any = info.fields()
        with self._client.pipeline() as pipeline:
            pipeline.hset(self._key, mapping=fields)
            pipeline.pexpire(self._key, round(self._every * MISSED_BEATS * 1000))
            pipeline.zadd(self._list, {self.worker_id: info.seen_at})
            pipeline.zremrangebyscore(self._list, "-inf", info.seen_at - FORGOTTEN_AFTER)
            pipeline.hmget(self._paused, self._pause_fields)
            replies = pipeline.execute(raise_on_error=False)
        values = replies[-1] if isinstance(replies[-1], list) else [None] * len(self._pause_fields)
        pauses = [parse_pause(*pair) for pair in zip(self._pause_fields, values, strict=True) if pair[1] is not None]
        if self._health.hold("; ".join(filter(None, (why_held(pauses), self._safety.why_not())))):
            self._wake.set()  # so that everybody sees it
        self._heal(replies, fields)

    def _heal(self, replies: list[Any], fields: Any) -> None:
        """Write what a worker says of itself anew where something else stands in its place. Raise any other error."""
        if is_wrong_type(replies[0]):
            log.error("the key %s held another kind of value than it should; it is written anew", self._key)
            self._client.delete(self._key)
            self._client.hset(self._key, mapping=fields)
        errors = [reply for reply in replies[1:] if isinstance(reply, Exception)]
        for error in errors:
            if not is_wrong_type(error):
                raise error
            self._note(error)
            tell_once(f"a key that workers write is set aside: {error}")

    def info(self) -> WorkerInfo:
        """What the worker says of itself now."""
        job, heat = next(iter(self._in_hand), ""), self._thermometer.read()
        update = {
            "job": job,
            "seen_at": time.time(),
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
            case Fitness.HELD if not job:  # as when it is off duty
                state = HELD
            case Fitness.OFF_DUTY if not job:  # the job in hand is rendered to its end
                state = OFF_DUTY
            case _:
                state = "rendering" if job else "idle"
        return self._info.model_copy(update={"state": state, **update})


def chip_name() -> str:
    """The processor, as its maker names it."""
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else []:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
