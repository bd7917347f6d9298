"""A farm as deploy/ sets it up: Redis started from deploy/redis.conf with TLS and ACL, each side as its own user."""

import contextlib
import os
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis
from pydantic import SecretStr

from ltx_client.broker import connect
from ltx_client.farm import Farm
from ltx_client.protocol.names import Names
from ltx_client.protocol.settings import FarmSettings
from tests.integration.conftest import RunningFarm, wait_until
from tests.integration.test_ledger_servers import redis_server

DEPLOY = Path(__file__).parents[3] / "deploy"
TESTER = "user tester on nopass ~* &* +@all"
"""The tests' own user, who sees everything."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_script(name, *arguments):
    return subprocess.run([DEPLOY / name, *arguments], check=True, capture_output=True, text=True, timeout=60)


@dataclass
class SecuredBroker:
    """`secrets`: the folder that deploy/certs.sh and deploy/users.sh have filled."""

    folder: Path
    secrets: Path
    port: int
    process: subprocess.Popen | None = None

    def start(self):
        """From deploy/redis.conf with other folders, port and interface."""
        text = (DEPLOY / "redis.conf").read_text()
        for there, here in {"/etc/ltx-farm": self.secrets, "/var/lib/ltx-farm": self.folder}.items():
            assert there in text
            text = text.replace(there, str(here))
        config = self.folder / "redis.conf"
        config.write_text(text)
        options = ["--tls-port", str(self.port), "--bind", "127.0.0.1"]
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen([redis_server(), config, *options], stdout=log, stderr=log)
        wait_until(self._answers, timeout=20, what="the broker answering")

    def stop(self):
        self.process.terminate()
        self.process.wait(20)

    def password(self, user):
        return (self.secrets / f"{user}.password").read_text().strip()

    def url(self, user, port=None):
        secret = "" if user == "tester" else self.password(user)
        return f"rediss://{user}:{secret}@127.0.0.1:{port or self.port}/0"

    def settings(self, user, port=None):
        return FarmSettings(broker_url=SecretStr(self.url(user, port)), broker_ca=self.secrets / "ca.crt")

    def connect(self, user):
        return redis.Redis.from_url(self.settings(user).broker_url.get_secret_value(), decode_responses=True)

    @property
    def address(self):
        return SimpleNamespace(url=self.settings("client").broker_url, port=self.port)

    def _answers(self):
        assert self.process.poll() is None, (self.folder / "redis.log").read_text()
        with contextlib.suppress(redis.ConnectionError), self.connect("tester") as client:
            return client.ping()


@dataclass
class SecuredFarm(RunningFarm):
    """Clients in `env` are the user client; workers are the user worker. Each side may be given a port of its own."""

    client_port: int | None = None
    worker_port: int | None = None

    def start_worker(self, name="one", **settings):
        as_client = self.env
        self.env = {**as_client, "LTX_BROKER_URL": self.server.url("worker", self.worker_port)}
        try:
            return super().start_worker(name, **settings)
        finally:
            self.env = as_client

    @contextlib.contextmanager
    def connect(self):
        url = self.server.settings("client", self.client_port).broker_url
        with connect(url) as client:
            yield Farm.over(client, url, Names(), str(self.storage))


@pytest.fixture(scope="session")
def secrets(tmp_path_factory):
    if shutil.which("openssl") is None:
        if os.environ.get("CI"):
            pytest.fail("openssl is not installed; CI must test deploy/certs.sh")
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("secrets")
    run_script("certs.sh", folder, "localhost", "127.0.0.1")
    run_script("users.sh", folder)
    with (folder / "users.acl").open("a") as acl:
        acl.write(TESTER + "\n")
    return folder


@pytest.fixture
def broker(tmp_path, secrets):
    folder = tmp_path / "redis"
    folder.mkdir()
    broker = SecuredBroker(folder, secrets, free_port())
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def secured(tmp_path, no_farm_env, broker):
    storage = tmp_path / "storage"
    env = {
        **no_farm_env,
        "LTX_BROKER_URL": broker.url("client"),
        "LTX_BROKER_CA": str(broker.secrets / "ca.crt"),
        "LTX_STORAGE_URL": str(storage),
    }
    farm = SecuredFarm(tmp_path, broker, env, storage)
    yield farm
    farm.stop_workers()
