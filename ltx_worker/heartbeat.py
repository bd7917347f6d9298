"""Tells the farm that this worker is alive: a hash that expires when nobody renews it."""

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

from ltx_client.protocol.workers import WorkerInfo
from ltx_worker.settings import WorkerSettings, machine_id

__all__ = ["Heartbeat", "chip_name"]

log = logging.getLogger(__name__)

MISSED_BEATS = 3
"""A worker is gone after so many."""


class Heartbeat:
    """Writes `worker:{id}` every few seconds from a thread of its own, and at once when the state changes."""

    def __init__(self, settings: WorkerSettings, client: redis.Redis, variant: str) -> None:
        self.worker_id = machine_id(settings)
        self.chip = chip_name()
        self._client = client
        self._key = settings.names.worker(self.worker_id)
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
        self._job = ""
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begins to beat."""
        self._thread.start()

    def stop(self) -> None:
        """Stops, and takes the worker off the farm's list."""
        self._stopped.set()
        self._wake.set()
        self._thread.join()
        with contextlib.suppress(redis.RedisError):
            self._client.delete(self._key)

    @contextlib.contextmanager
    def busy(self, job_id: str) -> Iterator[None]:
        """While inside, the worker shows as rendering this job."""
        self._job = job_id
        self._wake.set()
        try:
            yield
        finally:
            self._job = ""
            self._wake.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._wake.clear()
            try:
                self._beat()
            except redis.RedisError as error:
                log.warning("heartbeat: the broker is away: %s", error)
            self._wake.wait(self._every)

    def _beat(self) -> None:
        state = "rendering" if self._job else "idle"
        info = self._info.model_copy(update={"state": state, "job": self._job, "seen_at": time.time()})
        fields: Any = info.model_dump()
        with self._client.pipeline() as pipeline:
            pipeline.hset(self._key, mapping=fields)
            pipeline.pexpire(self._key, round(self._every * MISSED_BEATS * 1000))
            pipeline.execute()


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
