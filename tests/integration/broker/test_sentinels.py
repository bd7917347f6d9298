"""Test a broker with a replica and three sentinels that dies in the middle of a render."""

import asyncio
import contextlib
import functools
import json
import subprocess
from types import SimpleNamespace

import pytest
import redis
from pydantic import SecretStr

from ltx_client import AsyncFarm
from ltx_client.errors import BrokerUnreachable
from ltx_client.local.server import find_server
from ltx_client.protocol import events
from ltx_client.protocol.state import Status
from ltx_client.shared.settings import FarmSettings
from ltx_models.request import GenerationRequest
from tests.integration.conftest import PATIENCE, PROMPT, RunningFarm, ltx_here, start_ltx, wait_until
from tests.integration.farm.test_jobs import reach
from tests.integration.servers import free_port
from tests.storages import made

PASSWORD, SENTINELS_OWN = "of/the@broker", "of#the%sentinels"
STEPS = 60


class Sentinels:
    """Two servers, the second a replica of the first, and three sentinels that watch them."""

    def __init__(self, folder):
        self._folder = folder
        self._processes = []
        self.ports = [free_port(), free_port()]
        self.sentinels = [free_port() for _ in range(3)]
        shared = {"requirepass": PASSWORD, "masterauth": PASSWORD, "save": '""', "appendonly": "yes"}
        shared["repl-diskless-sync-delay"] = "0"
        first = self._start(self.ports[0], **shared)
        self.servers = [first, self._start(self.ports[1], **shared, replicaof=f"127.0.0.1 {self.ports[0]}")]
        wait_until(lambda: self.is_in_step(self.ports[1]), what="the replica being in step")
        for port in self.sentinels:
            self._start(port, "--sentinel", **self._watching())
        wait_until(self.are_acquainted, what="the sentinels knowing each other and the replica")

    def _watching(self):
        return {
            "requirepass": f'"{SENTINELS_OWN}"',
            "sentinel": [
                f"monitor main 127.0.0.1 {self.ports[0]} 2",
                f"auth-pass main {PASSWORD}",
                f'sentinel-pass "{SENTINELS_OWN}"',
                "down-after-milliseconds main 1000",
                "failover-timeout main 1000",
            ],
        }

    def _start(self, port, *options, **settings):
        folder = self._folder / str(port)
        folder.mkdir()
        lines = [f"port {port}", "bind 127.0.0.1", "protected-mode no", f"dir {folder}"]
        for name, values in settings.items():
            lines += [f"{name} {value}" for value in (values if isinstance(values, list) else [values])]
        (folder / "server.conf").write_text("\n".join(lines) + "\n")
        with (folder / "log").open("wb") as log:
            command = [find_server(), str(folder / "server.conf"), *options]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._processes.append(process)
        return process

    def ask(self, port, *command, password=PASSWORD):
        with redis.Redis(port=port, password=password, decode_responses=True) as client:
            return client.execute_command(*command)

    def is_in_step(self, port):
        with contextlib.suppress(redis.RedisError):
            return self.ask(port, "INFO", "replication").get("master_link_status") == "up"

    def are_acquainted(self):
        with contextlib.suppress(redis.RedisError):
            seen = [self.ask(port, "SENTINEL", "MASTER", "main", password=SENTINELS_OWN) for port in self.sentinels]
            return all(int(one["num-other-sentinels"]) == 2 and int(one["num-slaves"]) == 1 for one in seen)

    def primary(self):
        """Return the port of the primary that the sentinels name."""
        return int(self.ask(self.sentinels[0], "SENTINEL", "MASTER", "main", password=SENTINELS_OWN)["port"])

    def stop(self):
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()


@pytest.fixture
def sentinels(tmp_path):
    (tmp_path / "servers").mkdir()
    running = Sentinels(tmp_path / "servers")
    yield running
    running.stop()


@pytest.fixture
def watched_farm(tmp_path, no_farm_env, sentinels):
    storage = tmp_path / "storage"
    made(storage)
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    (tmp_path / "own").write_text(f"{SENTINELS_OWN}\r\n")
    hosts = ",".join(f"127.0.0.1:{port}" for port in sentinels.sentinels)
    env = {
        **no_farm_env,
        "LTX_BROKER_URL": f"sentinel://{hosts}/main",
        "LTX_BROKER_PASSWORD_FILE": str(tmp_path / "password"),
        "LTX_BROKER_SENTINEL_PASSWORD_FILE": str(tmp_path / "own"),
        "LTX_STORAGE_URL": str(storage),
    }
    url = FarmSettings(
        broker_url=SecretStr(env["LTX_BROKER_URL"]),
        broker_password_file=env["LTX_BROKER_PASSWORD_FILE"],
        broker_sentinel_password_file=env["LTX_BROKER_SENTINEL_PASSWORD_FILE"],
    ).broker_url
    running = RunningFarm(tmp_path, SimpleNamespace(address=SimpleNamespace(url=url)), env, storage)
    yield running
    running.stop_workers()


def test_a_primary_that_dies_in_the_middle(watched_farm, sentinels):
    with watched_farm.connect() as farm, contextlib.ExitStack() as stack:
        jobs = [farm.submit(GenerationRequest(prompt=PROMPT, num_steps=steps, seed=1)).id for steps in (STEPS, 2)]
        follower = stack.enter_context(start_ltx("watch", "--json", jobs[0], env=watched_farm.env))
        stack.callback(follower.kill)
        watched_farm.launch_worker(lease=60, renew_every=1, reap_every=1)
        assert follower.stdout.readline()
        reach(farm, jobs[0], 3)
        wait_until(lambda: sentinels.ask(sentinels.ports[0], "WAIT", 1, 1000), what="the replica having all of it")
        sentinels.servers[0].kill()
        ended = [_ended(farm, job) for job in jobs]
        assert sentinels.primary() == sentinels.ports[1]
        assert [(view.snapshot.status, view.snapshot.attempt) for view in ended] == [(Status.DONE, 1)] * 2
        for job in jobs:
            assert sum(isinstance(update.event, events.Done) for update in farm.watch(job)) == 1
        assert {path.name for path in watched_farm.storage.glob("*.mp4")} == {v.snapshot.result.video for v in ended}
        said, errors = follower.communicate(timeout=PATIENCE)
        assert follower.returncode == 0, errors
        assert json.loads(said.splitlines()[-1])["type"] == "done"
        assert "Traceback" not in errors
    ltx_here("submit", "another one", "--steps", 1, env=watched_farm.env)
    ltx_here("jobs", env=watched_farm.env)


def test_an_async_watcher_rides_out_a_primary_that_dies(watched_farm, sentinels, monkeypatch):
    monkeypatch.setenv("LTX_STORAGE_URL", watched_farm.env["LTX_STORAGE_URL"])
    settings = FarmSettings(broker_url=watched_farm.server.address.url)

    async def seen():
        async with AsyncFarm(settings) as farm:
            job = farm.job((await farm.submit(GenerationRequest(prompt=PROMPT, num_steps=2, seed=1))).id)
            watching = asyncio.create_task(_collect(job.updates()))
            replicated = functools.partial(sentinels.ask, sentinels.ports[0], "WAIT", 1, 1000)
            await asyncio.to_thread(wait_until, replicated, what="the replica having all of it")
            sentinels.servers[0].kill()
            while True:
                with contextlib.suppress(BrokerUnreachable):
                    assert await job.cancel() == Status.QUEUED
                    return await asyncio.wait_for(watching, PATIENCE)
                await asyncio.sleep(0.1)

    assert [update.view.status for update in asyncio.run(seen())][-1] == Status.CANCELLED
    assert sentinels.primary() == sentinels.ports[1]


async def _collect(items):
    return [item async for item in items]


def _ended(farm, job):
    def view():
        with contextlib.suppress(Exception):
            found = farm.view(job)
            return found if found.snapshot.status in (Status.DONE, Status.FAILED) else None

    return wait_until(view, what=f"job {job} ending")
