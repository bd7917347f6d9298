"""The ledger's tests again, on the servers that farms use: Redis 7 and Valkey 9. The fake ships with the real."""

import os
import shutil
import socket
import subprocess

import pytest
import redis

from ltx_client.local.server import find_server
from tests.integration.conftest import wait_until
from tests.ledger_machine import run_machine
from tests.unit.test_ledger import *  # noqa: F403 - the tests themselves
from tests.unit.test_turns import *  # noqa: F403


def redis_server():
    """Debian's; absent, that is a gap on a developer's machine and a failure in CI."""
    if path := shutil.which("redis-server"):
        return path
    if os.environ.get("CI"):
        pytest.fail("redis-server is not installed; CI must test on it")
    pytest.skip("redis-server is not installed")


def answers(client):
    try:
        return client.ping()
    except redis.ConnectionError:
        return False


@pytest.fixture(scope="module", params=["redis", "valkey"])
def server(request, tmp_path_factory):
    binary = redis_server() if request.param == "redis" else find_server()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {"port": port, "bind": "127.0.0.1", "save": "", "dir": tmp_path_factory.mktemp("server")}
    process = subprocess.Popen(
        [binary, *(word for name, value in options.items() for word in (f"--{name}", str(value)))],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    with redis.Redis(port=port) as client:
        try:
            wait_until(lambda: answers(client), timeout=20, what="the server answering")
            yield request.param, client
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture
def redis_client(server):
    _, client = server
    client.flushall()
    return client


def test_which_servers_these_are(server):
    name, client = server
    info = client.info("server")
    assert info.get("server_name", "redis") == name
    assert int(info.get("valkey_version", info["redis_version"]).split(".")[0]) >= {"redis": 7, "valkey": 9}[name]


def test_the_scripts_keep_what_the_model_promises(redis_client):
    run_machine(redis_client, examples=60)
