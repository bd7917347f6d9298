"""Run the ledger's tests on the servers that farms use, as well as on the fake."""

import os
import subprocess

import pytest
import redis

from tests.integration.conftest import wait_until
from tests.integration.servers import OFFERED, SERVERS, binary_of, free_port, release_of
from tests.ledger_machine import run_machine
from tests.unit.worker.ledger.test_ledger import *  # noqa: F403 - the tests themselves
from tests.unit.worker.queue.test_fair_turns import *  # noqa: F403


def answers(client):
    try:
        return client.ping()
    except redis.ConnectionError:
        return False


@pytest.fixture(scope="module", params=SERVERS)
def server(request, tmp_path_factory):
    binary, port = binary_of(request.param), free_port()
    options = {"port": port, "bind": "127.0.0.1", "save": "", "dir": tmp_path_factory.mktemp("server")}
    process = subprocess.Popen(
        [binary, *(word for name, value in options.items() for word in (f"--{name}", str(value)))],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    with redis.Redis(port=port) as client:
        try:
            wait_until(lambda: answers(client), what="the server answering")
            yield request.param, client
        finally:
            process.terminate()
            process.wait(120)


@pytest.fixture
def redis_client(server):
    _, client = server
    client.flushall()
    return client


def test_which_servers_these_are(server):
    name, client = server
    info = client.info("server")
    found = info.get("server_name", "redis"), info.get("valkey_version", info["redis_version"])
    assert found == release_of(binary_of(name))
    if name in OFFERED and os.environ.get("CI"):  # on a developer's machine it may be a later one
        assert f"{found[0]} {found[1]}.".startswith(f"{name}.")


def test_the_scripts_keep_what_the_model_promises(redis_client):
    run_machine(redis_client, examples=20)  # the first of those that run on the ledger in memory
