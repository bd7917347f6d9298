"""Test the first contact with a broker that is not what its URL says: the sentence names what would be right."""

import contextlib
import dataclasses
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time

import pytest
from pydantic import SecretStr

from ltx_client.errors import BrokerUnreachable
from ltx_client.farm.broker import connect
from ltx_client.farm.ledger.scripts import ClientLedger
from ltx_client.local.members import FarmFolder
from ltx_client.local.server import Server, find_server
from ltx_client.protocol.names import Names
from ltx_client.shared.broker.client import LIMITS, Purpose
from ltx_client.shared.broker.url import Broker
from ltx_client.shared.celery.messages import publish
from ltx_worker.commands.start import _why_refused
from ltx_worker.settings import WorkerSettings
from tests.integration.servers import free_port


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = FarmFolder(tmp_path_factory.mktemp("broker"))
    folder.create()
    running = Server(folder)
    with running.address.connect() as client:
        client.acl_setuser("narrow", enabled=True, passwords=["+pw"], commands=["+ping"], keys=["*"])
    yield running
    running.stop()


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory):
    """Return the port of a server that speaks TLS, and closes any other connection."""
    if shutil.which("openssl") is None:
        assert not os.environ.get("CI")
        pytest.skip("there is no openssl here")
    folder = tmp_path_factory.mktemp("tls")
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        folder / "key",
        "-out",
        folder / "crt",
    ]
    subprocess.run([*made, "-days", "2", "-subj", "/CN=localhost"], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "crt", folder / "key")

    def serve():
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            try:
                context.wrap_socket(connection, server_side=True).close()
            except OSError:
                connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def said_of(url):
    """Check that a client's user and a worker's see the same sentence, and return it."""
    with pytest.raises(BrokerUnreachable) as raised:
        connect(SecretStr(url))
    assert _why_refused(WorkerSettings(broker_url=None), SecretStr(url)) == str(raised.value)
    return str(raised.value)


def test_a_database_that_there_is_not(server):
    port, password = server.address.port, server.address.password
    assert said_of(f"redis://:{password}@127.0.0.1:{port}/99") == (
        f"the broker at 127.0.0.1:{port} has no database 99; LTX_BROKER_URL must end with one that it has, such as /0"
    )


def test_a_database_that_the_user_may_not_choose(server):
    said = said_of(f"redis://narrow:pw@127.0.0.1:{server.address.port}/1")
    assert "does not let this user choose database 1; name another one in LTX_BROKER_URL" in said
    assert "+select" in said
    with connect(SecretStr(f"redis://narrow:pw@127.0.0.1:{server.address.port}/0")) as client:
        assert client.ping()


@pytest.mark.parametrize(
    ("scheme", "right", "end"), [("rediss", "redis", ""), ("valkeys", "valkey", ""), ("sentinels", "sentinel", "main")]
)
def test_a_server_that_speaks_no_tls(server, scheme, right, end, monkeypatch):
    for purpose in (Purpose.COMMAND, Purpose.SENTINEL):
        brief = dataclasses.replace(LIMITS[purpose], connect_within=2.0, answer_within=2.0)
        monkeypatch.setitem(LIMITS, purpose, brief)
    with pytest.raises(BrokerUnreachable) as raised:
        connect(SecretStr(f"{scheme}://127.0.0.1:{server.address.port}/{end}"))
    assert f"does not speak TLS there; LTX_BROKER_URL must begin with {right}://" in str(raised.value)


@pytest.mark.lane("machine")
@pytest.mark.parametrize(
    ("scheme", "right", "end"), [("redis", "rediss", ""), ("valkey", "valkeys", ""), ("sentinel", "sentinels", "main")]
)
def test_a_server_that_speaks_tls(encrypted, scheme, right, end):
    said = said_of(f"{scheme}://127.0.0.1:{encrypted}/{end}")
    assert f"speaks TLS there; LTX_BROKER_URL must begin with {right}://" in said


def test_a_server_that_is_no_sentinel(server):
    url = f"sentinel://127.0.0.1:{server.address.port}/main?sentinel_password={server.address.password}"
    assert "is a server, not a sentinel; LTX_BROKER_URL must begin with redis://" in said_of(url)


@pytest.mark.parametrize(
    ("end", "sentence"),
    [
        ("/main", "the sentinels at 127.0.0.1:PORT require another password; set LTX_BROKER_SENTINEL_PASSWORD_FILE"),
        ("/main?sentinel_password=wrong", "the sentinels at 127.0.0.1:PORT require another password"),
    ],
)
def test_sentinels_that_want_a_password(server, end, sentence):
    with pytest.raises(BrokerUnreachable) as raised:
        connect(SecretStr(f"sentinel://127.0.0.1:{server.address.port}{end}"))
    assert sentence.replace("PORT", str(server.address.port)) in str(raised.value)


def test_a_sentinel_that_is_taken_for_a_server(tmp_path):
    port = free_port()
    (tmp_path / "s.conf").write_text(f"port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 1 1\n")
    process = subprocess.Popen(
        [find_server(), "s.conf", "--sentinel"], cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        while process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.01)
        assert said_of(f"redis://127.0.0.1:{port}/0").endswith(
            "is a sentinel, not a server; LTX_BROKER_URL must be sentinel://HOST:PORT/NAME"
        )
        with pytest.raises(BrokerUnreachable, match="know no other that is up; check its name in LTX_BROKER_URL"):
            connect(SecretStr(f"sentinel://127.0.0.1:{port}/other"))
    finally:
        process.kill()
        process.wait()


def test_sentinels_that_are_away():
    with pytest.raises(
        BrokerUnreachable, match=r"cannot reach the sentinels at 127\.0\.0\.1:1,127\.0\.0\.1:2, or they know"
    ):
        connect(SecretStr("sentinel://127.0.0.1:1,127.0.0.1:2/main"))


@pytest.mark.parametrize("end", ["/3?socket_timeout=5&health_check_interval=1", "?db=3"])
def test_the_ledger_and_the_messages_meet_in_the_same_database(server, end, make_job):
    url = SecretStr(f"redis://:{server.address.password}@127.0.0.1:{server.address.port}{end}")
    job = make_job()
    with connect(url) as client, server.address.connect() as first:
        ClientLedger(client, Names()).submit(job)
        publish(url, Names(), [job])
        assert client.keys(Names().job(job.id)) and client.keys(f"*{job.queue}*")
        assert first.keys() == []
        client.flushdb()


def test_a_unix_socket(tmp_path, make_job):
    path = tmp_path / "r.sock"
    command = [find_server(), "--port", "0", "--unixsocket", str(path), "--save", "", "--requirepass", "p/w"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    try:
        for scheme, option in (("unix", "db"), ("redis+socket", "virtual_host")):
            url = SecretStr(Broker.parse(f"{scheme}://:p%2Fw@{path}?{option}=2").url)
            while process.poll() is None and not path.exists():
                time.sleep(0.01)
            job = make_job()
            with connect(url) as client:
                ClientLedger(client, Names()).submit(job)
                publish(url, Names(), [job])
                assert client.keys(f"*{job.queue}*") and client.info("keyspace").keys() == {"db2"}
    finally:
        process.terminate()
        process.wait()
