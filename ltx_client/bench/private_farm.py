"""Run a private farm for a measurement: a real server and real workers, whose engines render nothing."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from ltx_client.errors import FarmError
from ltx_client.farm.broker import connect
from ltx_client.farm.farm import Farm
from ltx_client.local.members import FarmFolder
from ltx_client.local.server import Server
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import ENDED
from ltx_client.shared.broker.url import Broker
from ltx_client.shared.settings import FarmSettings
from ltx_client.shared.storage.store import Storage

__all__ = ["PrivateFarm"]

NAMESPACE = "bench:"
START_TIMEOUT = 60.0
DRAIN_TIMEOUT = 600.0
STOP_TIMEOUT = 30.0


class PrivateFarm:
    """Workers that come and go on one server, which syncs every write to the disk like the embedded farm's."""

    def __init__(self, folder: Path, server: Server, client: redis.Redis, farm: Farm) -> None:
        self.names = Names(NAMESPACE)
        self.client = client
        self.farm = farm
        self.broker = Broker.parse(server.address.url.get_secret_value())
        self._folder = folder
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("LTX_")},
            "LTX_BROKER_URL": server.address.url.get_secret_value(),
            "LTX_STORAGE_URL": str(folder / "storage"),
            "LTX_NAMESPACE": NAMESPACE,
        }
        self._started = 0

    @classmethod
    @contextlib.contextmanager
    def start(cls, folder: Path) -> Iterator[PrivateFarm]:
        """Yield a farm in `folder`, without a worker.

        Raises:
            FarmError: The server does not start.
        """
        broker = FarmFolder(folder / "broker")
        broker.create()
        Storage(str(folder / "storage")).init()
        server = Server(broker)
        try:
            settings = FarmSettings(
                broker_url=server.address.url, storage_url=str(folder / "storage"), namespace=NAMESPACE
            )
            with connect(server.address.url) as client, Farm.connect(settings) as farm:
                yield cls(folder, server, client, farm)
        finally:
            server.stop()

    @contextlib.contextmanager
    def workers(self, count: int, *, render: bool = False) -> Iterator[None]:
        """Run `count` workers while inside.

        Args:
            count: How many.
            render: Whether they render, with the real engine.

        Raises:
            FarmError: They do not start.
        """
        processes = [self._start_worker(render) for _ in range(count)]
        try:
            deadline = time.monotonic() + START_TIMEOUT
            while len(self.farm.workers()) < count:
                if time.monotonic() > deadline or any(process.poll() is not None for process in processes):
                    raise FarmError(f"a worker did not start: {self._last_words()}")
                time.sleep(0.05)
            yield
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                try:
                    process.wait(STOP_TIMEOUT)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def await_ended(self, job_ids: list[str]) -> None:
        """Return when all of these jobs have ended, in about this order.

        Raises:
            FarmError: They have not ended within 10 minutes.
        """
        deadline = time.monotonic() + DRAIN_TIMEOUT
        left = list(job_ids)
        while left:
            status: Any = self.client.hget(self.names.state(left[-1]), "status")
            if status is not None and status.decode() in ENDED:
                left.pop()
            elif time.monotonic() > deadline:
                raise FarmError(f"{len(left)} jobs have not ended after {DRAIN_TIMEOUT:g} s: {self._last_words()}")
            else:
                time.sleep(0.1)

    def sidecar(self, job_id: str) -> dict[str, Any]:
        """Return the sidecar of a job's first attempt."""
        written: dict[str, Any] = json.loads(next((self._folder / "storage").glob(f"{job_id}.1.*.json")).read_text())
        return written

    def _start_worker(self, render: bool) -> subprocess.Popen[bytes]:
        self._started += 1
        home = self._folder / f"worker-{self._started}"
        with (self._folder / "workers.log").open("ab") as log:
            return subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "ltx_worker",
                    "start",
                    *([] if render else ["--no-op"]),
                    "--log-level",
                    "WARNING",
                ],
                env={**self._environment, "LTX_HOME": str(home), "LTX_WORKER_NAME": home.name},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _last_words(self) -> str:
        lines = (self._folder / "workers.log").read_text(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "it said nothing")
