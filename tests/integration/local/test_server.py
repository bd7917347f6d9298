"""Test the embedded farm's server: checked settings, alone on its data, known by more than its port."""

import contextlib
import json
import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from ltx_client.errors import BrokerUnreachable, FarmError
from ltx_client.local import orphans
from ltx_client.local import server as server_module
from ltx_client.local.address import Address
from ltx_client.local.join import join
from ltx_client.local.members import FarmFolder, Use
from ltx_client.local.server import Server, find_server
from ltx_client.local.server_lock import ServerLock
from ltx_client.shared.doctor.checks import Level, run_checks
from ltx_client.shared.settings import FarmSettings
from ltx_client.terminal.client_checks import Machine
from tests.integration.conftest import wait_until


@pytest.fixture
def folder(tmp_path):
    made = FarmFolder(tmp_path / "home")
    made.create()
    yield made
    orphans.stop_orphans(made)


@contextlib.contextmanager
def running(folder):
    server = Server(folder)
    try:
        yield server
    finally:
        server.stop()


def servers_on(folder):
    return orphans._servers_on(folder)


@contextlib.contextmanager
def listener(port=0):
    """Return another program's port, and everything that was ever sent to it."""
    got, ended = [], threading.Event()
    with socket.create_server(("127.0.0.1", port)) as server:
        server.settimeout(0.05)

        def serve():
            while not ended.is_set():
                with contextlib.suppress(TimeoutError), server.accept()[0] as client:
                    client.settimeout(1)
                    with contextlib.suppress(TimeoutError, ConnectionError):
                        while chunk := client.recv(4096):
                            got.append(chunk)
                            client.sendall(b"+OK\r\n" * 4)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1], got
        finally:
            ended.set()
            thread.join()


NAMES = {
    "space": "my farm",
    "brackets": "farm [abc]",
    "star and question mark": "f*r?",
    "quotes": "a\"b'c",
    "unicode": "Fürst 映画",
    "hash": "#1 farm",
    "dollar": "$HOME ${HOME}",
    "backslash": "a\\nb\\",
    "colon": "a:b",
    "percent": "100%41",
    "brace": "{a,b}",
    "long": "/".join(["d" * 200] * 5),
    "symlink": None,
}


@pytest.mark.parametrize("kind", NAMES)
def test_any_folder_can_be_a_home(kind, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    home = tmp_path / (NAMES[kind] or "link")
    if NAMES[kind] is None:
        (tmp_path / "elsewhere").mkdir()
        home.symlink_to(tmp_path / "elsewhere")
    folder = FarmFolder(home)
    folder.create()
    with running(folder) as server:
        with server.address.connect() as client:
            client.set("a", "b")
        assert [Path(process.cwd()).samefile(folder.path) for process in servers_on(folder)] == [True]
        server._process.kill()
        server._process.wait()
        server.start()
        with server.address.connect() as client:
            assert client.get("a") == b"b"
    assert any(folder.journal.iterdir())
    assert list(here.iterdir()) == []


def test_the_password_is_on_no_command_line_and_in_no_file(folder):
    with running(folder) as server:
        (process,) = servers_on(folder)
        told = [*process.cmdline(), *process.environ().values()]
        assert not any(server.address.password in word for word in told)
        files = [path for path in folder.path.rglob("*") if path.is_file()]
        assert files
        assert not any(server.address.password.encode() in path.read_bytes() for path in files)
        server.address.write(folder.description)
        assert stat.S_IMODE(folder.description.stat().st_mode) == 0o600


CHANGES = {
    "s/^requirepass .*//": "it needs no password",
    "s/^requirepass .*/requirepass other/": "did not start: ",
    "s/^appendfsync .*/appendfsync everysec/": "its appendfsync is 'everysec', not 'always'",
    "s/^appendonly .*/appendonly no/": "its appendonly is 'no'",
    "s/^save .*/save 60 1/": "its save is '60 1'",
    "s/^maxmemory-policy .*/maxmemory-policy allkeys-lru/": "its maxmemory-policy",
    "s/^appenddirname .*/appenddirname elsewhere/": "its appenddirname is 'elsewhere'",
    's/^bind .*/bind "0.0.0.0"/': r"it listens at 0\.0\.0\.0:",
    "s/^port .*/port %PORT%/": "it listens at 127.0.0.1:",
    "s|^save|dir /tmp\\nsave|": "it works in /tmp, not in /",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_server_that_differs_from_what_it_was_told_is_not_used(change, folder, tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    script = tmp_path / "a-valkey-server"
    edit = change.replace("%PORT%", str(port))
    script.write_text(f"#!/bin/bash\nexec '{find_server()}' - < <(sed '{edit}')\n")
    script.chmod(0o700)
    monkeypatch.setattr(server_module, "find_server", lambda: str(script))
    monkeypatch.setattr(server_module, "START_TIMEOUT", 2.0)
    with pytest.raises(FarmError, match=CHANGES[change]):
        Server(folder)
    assert servers_on(folder) == []
    assert not folder.server_lock.is_taken()


def test_a_server_that_takes_defaults_is_told_nothing_secret(folder, tmp_path, monkeypatch):
    """Such a server took the path of its configuration for a pattern."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    script = tmp_path / "a-valkey-server"
    script.write_text(f"#!/bin/bash\nexec '{find_server()}' --port {port} --protected-mode no\n")
    script.chmod(0o700)
    monkeypatch.setattr(server_module, "find_server", lambda: str(script))
    with pytest.raises(FarmError, match=rf"is not used: it listens at .*:{port}"):
        Server(folder)
    assert not folder.server_lock.is_taken()


def test_a_port_that_another_program_took_is_left_to_it(folder, monkeypatch):
    free = server_module._free_port
    with listener() as (port, got):
        ports = iter([port, port])
        monkeypatch.setattr(server_module, "_free_port", lambda: next(ports, None) or free())
        with running(folder) as server:
            assert server.address.port != port
            assert server.address.answers()
    assert got == []


def test_the_lock_lasts_as_long_as_the_server(folder):
    with running(folder) as server:
        assert folder.server_lock.is_taken()
        assert folder.server_lock.is_taken()  # to ask does not take it
        with pytest.raises(FarmError, match="has locked"), mock_patience(0.1), folder.server_lock.take():
            pass
        server._process.kill()
        server._process.wait()
        assert not folder.server_lock.is_taken()
        server.start()
        with server.address.connect() as client:
            client.set("a", "b")
            client.bgrewriteaof()  # its child inherits the lock, and does not keep it
            wait_until(lambda: not client.info()["aof_rewrite_in_progress"], what="the rewrite's end")
    assert not folder.server_lock.is_taken()


@contextlib.contextmanager
def mock_patience(seconds):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ltx_client.local.server_lock.TIMEOUT", seconds)
        yield


def test_a_second_server_never_starts_on_the_same_data(folder):
    with running(folder), mock_patience(0.2):
        with pytest.raises(FarmError, match="has locked"):
            Server(folder)
        assert len(servers_on(folder)) == 1


def test_no_server_is_known_by_its_port_alone(folder):
    """A killed keeper has left a description whose port is another program's by now."""
    with listener() as (port, got):
        for locked in (True, False):
            Address(port, "hush", locked=locked).write(folder.description)
            assert folder.address() is None
    assert got == []
    with running(folder) as server:
        server.address.write(folder.description)
        assert folder.address() == server.address
    assert folder.address() is None


DESCRIPTIONS = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe",
    b'{"port": "6379", "password": "a"}',
    b'{"port": 0, "password": "a"}',
    b'{"port": 70000, "password": "a"}',
    b'{"port": 6379}',
    b'{"port": 6379, "password": "a@elsewhere:1/"}',
    b'{"port": 6379, "password": 7}',
    b'{"port": 1' + b"0" * 5000 + b', "password": "a"}',
]


@pytest.mark.parametrize("text", DESCRIPTIONS, ids=range(len(DESCRIPTIONS)))
def test_a_description_that_is_none(text, tmp_path):
    path = tmp_path / "farm.json"
    path.write_bytes(text)
    assert Address.read(path) is None


def test_an_older_versions_description_is_read(folder):
    folder.description.write_text(json.dumps({"port": 6379, "password": "abc"}))
    assert folder.address() is None
    with folder.keeper_lock():
        assert folder.address() == Address(6379, "abc", locked=False)


@pytest.mark.parametrize("kind", ["file", "no such", "read-only", "too long"])
def test_a_home_that_cannot_be_one_is_a_sentence(kind, tmp_path, clean_env, monkeypatch):
    (tmp_path / "file").touch()
    homes = {
        "file": tmp_path / "file" / "home",
        "no such": Path("/proc/nowhere/home"),
        "read-only": Path("/proc/self/home"),
        "too long": tmp_path / ("x" * 300),
    }
    if not Path("/proc/self").exists() and kind in ("no such", "read-only"):
        homes[kind] = Path("/System/home")
    with (
        pytest.raises(BrokerUnreachable, match=r"LTX_HOME .* cannot be used: "),
        join(homes[kind], Use.READ, "pocket"),
    ):
        pass


OWN = {".": True, "farm": True, "videos": True, "farm/members": True, "farm/farm.json": False}
OWN |= {f"farm/{name}": False for name in ("server.lock", "keeper.lock", "roster.lock", "videos-id", "keeper.log")}


@pytest.mark.parametrize("how", ["other kind", "dangling link", "link to itself", "pipe"])
@pytest.mark.parametrize("name", OWN)
def test_whatever_lies_in_the_place_of_the_farms_own_files_is_a_sentence(name, how, tmp_path):
    home = tmp_path / "home"
    path = home / name
    path.parent.mkdir(parents=True, exist_ok=True)
    match how:
        case "other kind":
            path.write_text("x") if OWN[name] else path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case _:
            path.symlink_to("nowhere" if how == "dangling link" else path.name)
    with (
        pytest.raises(BrokerUnreachable, match=rf"LTX_HOME .* cannot be used: {path} "),
        join(home, Use.READ, "pocket"),
    ):
        pass
    findings = list(run_checks([Machine(FarmSettings(broker_url=None, home=home)).home]))
    assert [(finding.about, finding.level) for finding in findings] == [("home", Level.FAILURE)]
    assert str(home) in findings[0].text


def test_a_lock_on_a_folder_that_cannot_lock_is_an_error_not_a_guess(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(OSError, match="not supported"), ServerLock(tmp_path / "lock").take():
        pass
