"""Test what a server leaves: data without a server, a server without a keeper, and damage; it is reported, and kept."""

import contextlib
import signal
import socket
import subprocess
import threading

import psutil
import pytest

from ltx_client.errors import FarmError
from ltx_client.local import orphans
from ltx_client.local.address import Address
from ltx_client.local.server import Server, find_server
from tests.integration.conftest import wait_until
from tests.integration.local.test_server import folder, running, servers_on

__all__ = ["folder"]


@contextlib.contextmanager
def old_server(folder):
    """Start a server as an older version did, without a lock."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [find_server(), "--port", str(port), "--requirepass", "abc", "--appendonly", "yes", "--save", ""],
        cwd=folder.path,
        stdout=subprocess.DEVNULL,
    )
    address = Address(port, "abc")
    wait_until(address.answers, what="the old server")
    with address.connect() as client:
        client.set("job", "kept")
    try:
        yield address
    finally:
        process.kill()
        process.wait()


def test_an_older_versions_orphan_is_stopped_first(folder):
    with old_server(folder) as old:
        orphans.stop_orphans(folder)
        assert not old.answers()
    with running(folder) as server, server.address.connect() as client:
        assert client.get("job") == b"kept"


@pytest.mark.parametrize("hung", [False, True])
def test_an_orphan_ends_even_if_it_hangs(folder, hung, monkeypatch):
    monkeypatch.setattr(orphans, "STOP_TIMEOUT", 0.5)
    server = Server(folder)
    if hung:
        server._process.send_signal(signal.SIGSTOP)
    waits = threading.Thread(target=server._process.wait)  # as process 1 does for an orphan
    waits.start()
    orphans.stop_orphans(folder)
    waits.join()
    assert not folder.server_lock.is_taken()


def test_a_program_that_reads_the_journal_is_no_server(folder):
    with running(folder):
        pass
    log = next(folder.journal.glob("*.incr.aof"))
    with subprocess.Popen(["tail", "-f", log], stdout=subprocess.DEVNULL) as reader:
        wait_until(lambda: psutil.Process(reader.pid).open_files(), what="the reader")
        orphans.stop_orphans(folder)
        assert reader.poll() is None
        reader.kill()


def damage(journal, how):
    incr = next(journal.glob("*.incr.aof"))
    content = incr.read_bytes()
    match how:
        case "cut short":
            incr.write_bytes(content[:-5])
        case "changed in the middle":
            incr.write_bytes(content.replace(b"*3", b"XX", 1))
        case "no manifest":
            next(journal.glob("*.manifest")).unlink()
        case "empty manifest":
            next(journal.glob("*.manifest")).write_bytes(b"")
        case "no base":
            next(journal.glob("*.base.rdb")).unlink()


@pytest.mark.parametrize(
    ("how", "refused"),
    [
        ("cut short", False),
        ("changed in the middle", True),
        ("no manifest", True),
        ("empty manifest", True),
        ("no base", True),
    ],
)
def test_a_damaged_journal_is_told_and_kept(folder, how, refused):
    with running(folder) as server, server.address.connect() as client:
        for number in range(9):
            client.set(f"job {number}", "waits")
    damage(folder.journal, how)
    before = {path.name: path.read_bytes() for path in folder.journal.iterdir()}
    if not refused:
        with running(folder) as server, server.address.connect() as client:
            assert client.dbsize() == 8
        return
    with pytest.raises(FarmError, match=r"journal of this machine's jobs is damaged: .*kept as it is"):
        Server(folder)
    assert {path.name: path.read_bytes() for path in folder.journal.iterdir()} == before
    assert servers_on(folder) == []


def test_a_journal_that_was_never_begun_is_none_that_is_damaged(folder):
    """A server that is killed in its first moments leaves files without a manifest."""
    folder.journal.mkdir()
    (folder.journal / "appendonly.aof.1.incr.aof").touch()
    (folder.journal / "appendonly.aof.1.base.rdb").write_bytes(b"REDIS0011")
    with running(folder) as server:
        assert server.address.answers()
