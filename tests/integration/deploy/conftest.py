"""Provide a farm as deploy/ sets it up: Redis by deploy/redis.conf with TLS and ACL, each side as its own user."""

import contextlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis
from pydantic import SecretStr

from ltx_client.farm.broker import connect
from ltx_client.farm.farm import Farm
from ltx_client.protocol.names import Names
from ltx_client.shared.settings import FarmSettings
from tests.integration.conftest import RunningFarm, wait_until
from tests.integration.servers import binary_of, free_port, speaks_tls
from tests.storages import made

DEPLOY = Path(__file__).parents[3] / "deploy"
TESTER = "user tester on nopass ~* &* +@all"
"""The tests' own user, who sees everything."""
NAMES = Names()


def run_script(name, *arguments):
    return subprocess.run([DEPLOY / name, *arguments], check=True, capture_output=True, text=True, timeout=240)


@dataclass
class SecuredBroker:
    """A broker by deploy/.

    secrets: the folder that deploy/certs.sh and deploy/users.sh have filled. binary: the server.
    """

    folder: Path
    secrets: Path
    port: int
    binary: str
    process: subprocess.Popen | None = None

    def start(self):
        """Start it by deploy/redis.conf with other folders, port and interface; without TLS if the server has none."""
        text = (DEPLOY / "redis.conf").read_text()
        for there, here in {"/etc/ltx-farm": self.secrets, "/var/lib/ltx-farm-broker": self.folder}.items():
            assert there in text
            text = text.replace(there, str(here))
        if not self.tls:
            text = re.sub(r"^(tls-.*|port 0)$", "", text, flags=re.MULTILINE)
        config = self.folder / "redis.conf"
        config.write_text(text)
        options = ["--tls-port" if self.tls else "--port", str(self.port), "--bind", "127.0.0.1"]
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen([self.binary, config, *options], stdout=log, stderr=log)
        wait_until(self._answers, what="the broker answering")

    @property
    def tls(self):
        return speaks_tls(self.binary)

    def stop(self):
        self.process.terminate()
        self.process.wait(120)

    def password(self, user):
        return (self.secrets / f"{user}.password").read_text().strip()

    def url(self, user, port=None):
        secret = "" if user == "tester" else self.password(user)  # which is asked for none
        return f"{'rediss' if self.tls else 'redis'}://{user}:{secret}@127.0.0.1:{port or self.port}/0"

    def settings(self, user, port=None):
        authority = self.secrets / "ca.crt" if self.tls else None
        return FarmSettings(broker_url=SecretStr(self.url(user, port)), broker_ca=authority)

    def env(self, user):
        """Return the environment of a client or worker."""
        authority = {"LTX_BROKER_CA": str(self.secrets / "ca.crt")} if self.tls else {}
        return {"LTX_BROKER_URL": self.url(user), **authority}

    def make_users(self, *namespaces):
        """Run users.sh again, as an upgrade does, and add the tests' own user again."""
        run_script("users.sh", self.secrets, *namespaces)
        with (self.secrets / "users.acl").open("a") as acl:
            acl.write(TESTER + "\n")

    def load_users(self):
        """Run ACL LOAD, after which some servers end the caller's connection."""
        with self.connect("admin") as admin, contextlib.suppress(redis.ConnectionError):
            admin.acl_load()

    def use_older_users(self):
        """Restart it with an early version's users.acl: the default user off, and nothing else about it."""
        acl = self.secrets / "users.acl"
        old = (
            acl.read_text().replace("user default off ~* &* +@all\n", "user default off\n").replace(" +acl|dryrun", "")
        )
        assert old.count("default") == 1
        acl.write_text(old)
        self.stop()
        self.start()

    @contextlib.contextmanager
    def farm(self, user, names=NAMES):
        """Return the farm as this user sees it."""
        url = self.settings(user).broker_url
        with connect(url) as client:
            yield Farm.over(client, url, names, None)

    def connect(self, user):
        return redis.Redis.from_url(self.settings(user).broker_url.get_secret_value(), decode_responses=True)

    @property
    def address(self):
        return SimpleNamespace(url=self.settings("client").broker_url, port=self.port)

    def _answers(self):
        assert self.process.poll() is None, (self.folder / "redis.log").read_text()
        with contextlib.suppress(redis.ConnectionError), self.connect("tester") as client:  # busy loading is one
            return client.ping()


@dataclass
class SecuredFarm(RunningFarm):
    """A farm whose clients, in `env`, are the user client and whose workers are the user worker.

    Each side may have a port of its own.
    """

    client_port: int | None = None
    worker_port: int | None = None

    def launch_worker(self, name="one", **settings):
        as_client = self.env
        self.env = {**as_client, "LTX_BROKER_URL": self.server.url("worker", self.worker_port)}
        try:
            return super().launch_worker(name, **settings)
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


@contextlib.contextmanager
def running_broker(tmp_path, secrets, server):
    folder = tmp_path / "redis"
    folder.mkdir()
    broker = SecuredBroker(folder, secrets, free_port(), binary_of(server))
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()


@pytest.fixture
def broker(tmp_path, no_farm_env, secrets):
    with running_broker(tmp_path, secrets, "redis 7.0") as broker:
        yield broker


@pytest.fixture
def secured(tmp_path, no_farm_env, broker):
    storage = tmp_path / "storage"
    made(storage)
    env = {
        **no_farm_env,
        **broker.env("client"),
        "LTX_STORAGE_URL": str(storage),
    }
    farm = SecuredFarm(tmp_path, broker, env, storage)
    yield farm
    farm.stop_workers()
