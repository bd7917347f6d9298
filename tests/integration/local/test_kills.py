"""Test that no job is lost and nothing remains running, whichever process of the embedded farm is killed, and when."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from ltx_client.errors import BrokerUnreachable
from ltx_client.local import orphans
from ltx_client.local.address import Address
from ltx_client.local.join import join
from ltx_client.local.members import FarmFolder, Use
from tests.integration.conftest import processes_of, wait_until, words_of
from tests.integration.local.test_orphans import old_server
from tests.integration.local.test_server import listener, running


@pytest.fixture
def home(tmp_path, no_farm_env, monkeypatch):
    for name in set(os.environ) - set(no_farm_env):
        monkeypatch.delenv(name)
    for name, value in no_farm_env.items():
        monkeypatch.setenv(name, value)
    return tmp_path / "home"


def read(home):
    """Run a member of the farm that needs only its server."""
    return join(home, Use.READ, "pocket")


def keepers(home):
    return [process for process in processes_of(home) if "ltx_client.local.keeper" in words_of(process)]


def kill(process, number=signal.SIGKILL):
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def assert_nothing_runs(home):
    wait_until(lambda: not processes_of(home), what="the farm's end")
    assert not FarmFolder(home).server_lock.is_taken()


@pytest.fixture
def most_servers(home):
    """Return the most servers that there were at once."""
    counts, ended = [0], threading.Event()
    folder = FarmFolder(home)

    def count():
        while not ended.is_set():
            with contextlib.suppress(OSError):
                counts.append(len(orphans._servers_on(folder)))
            time.sleep(0.05)  # to look at every process is much work

    thread = threading.Thread(target=count)
    thread.start()
    yield lambda: max(counts)
    ended.set()
    thread.join()


def write(home):
    """Start a farm that has something to lose."""
    folder = FarmFolder(home)
    folder.create()
    with running(folder) as server, server.address.connect() as client:
        client.set("job", "waits")


def assert_it_works(home):
    with read(home) as address, address.connect() as client:
        assert client.get("job") == b"waits"
    assert_nothing_runs(home)


@pytest.mark.parametrize("delay", [0, 0.4])
def test_a_keeper_that_is_killed_while_it_starts(home, most_servers, delay):
    write(home)

    def strike():
        keeper, *_ = wait_until(lambda: keepers(home), what="the keeper")
        time.sleep(delay)
        kill(keeper)

    with ThreadPoolExecutor(1) as pool:
        struck = pool.submit(strike)
        with read(home) as address, contextlib.suppress(AssertionError):
            struck.result()
            assert address.answers()
    assert_nothing_runs(home)
    assert_it_works(home)
    assert most_servers() == 1


@pytest.mark.parametrize("delay", [0, 0.1])
def test_a_keeper_that_is_killed_while_it_stops(home, most_servers, delay):
    write(home)
    folder = FarmFolder(home)

    def strike():
        wait_until(folder.description.exists, what="the farm")
        while folder.description.exists():  # the last member has gone: it stops
            time.sleep(0.001)
        time.sleep(delay)
        for keeper in keepers(home):
            kill(keeper)

    with ThreadPoolExecutor(1) as pool:
        struck = pool.submit(strike)
        with read(home):
            pass
        struck.result()
    assert_nothing_runs(home)
    assert_it_works(home)
    assert most_servers() == 1


KILLED = {
    "the keeper": ["keeper"],
    "the server": ["server"],
    "the guard": ["orphans"],
    "guard and keeper": ["orphans", "keeper"],
    "server and keeper": ["server", "keeper"],
    "all": ["orphans", "keeper", "server"],
}


@pytest.mark.parametrize("who", KILLED)
def test_what_is_killed_while_the_farm_runs(home, most_servers, who):
    write(home)
    with read(home):
        victims = [
            process
            for word in KILLED[who]
            for process in processes_of(home)
            if word in process.name() or any(word in text for text in words_of(process))
        ]
        assert len(victims) == len(KILLED[who])
        for process in victims:
            kill(process)
        if who == "guard and keeper":  # nobody is left who could stop the server: the next farm does
            wait_until(lambda: not keepers(home), what="the keeper's end")
            break_off(home)
            return
    assert_nothing_runs(home)
    assert_it_works(home)
    assert most_servers() == 1


def break_off(home):
    """Kill the command too, and start another one."""
    (server,) = orphans._servers_on(FarmFolder(home))
    with read(home) as address, address.connect() as client:
        assert not psutil.wait_procs([server], 120)[1]  # process 1 may be slow to take note of its end
        assert client.get("job") == b"waits"


def test_a_storm_of_signals(home):
    write(home)

    def storm():
        for _ in range(40):
            for keeper in keepers(home):
                kill(keeper, random.choice([signal.SIGTERM, signal.SIGHUP, signal.SIGINT]))
            time.sleep(0.05)

    with ThreadPoolExecutor(1) as pool:
        stormed = pool.submit(storm)
        with read(home) as address:
            assert address.port
        stormed.result()
    assert_nothing_runs(home)
    assert_it_works(home)


def test_many_at_once_share_one_farm(home, most_servers):
    together = threading.Barrier(4)

    def use(number):
        together.wait()
        with read(home) as address, address.connect() as client:
            client.incr("users")
            together.wait()
            return address

    with ThreadPoolExecutor(4) as pool:
        addresses = set(pool.map(use, range(4)))
    assert len(addresses) == 1
    assert_nothing_runs(home)
    assert most_servers() == 1
    with read(home) as address, address.connect() as client:
        assert client.get("users") == b"4"


def test_a_stale_description_sends_no_password_to_a_foreign_program(home, most_servers):
    write(home)
    folder = FarmFolder(home)
    with listener() as (port, got):
        Address(port, "hush", locked=True).write(folder.description)
        with read(home) as address:
            assert address.port != port
        assert_nothing_runs(home)  # while the server's lock is taken, the description is believed
        Address(port, "hush").write(folder.description)
        assert_it_works(home)
    assert got == []


@pytest.mark.parametrize("text", [b"", b"[1]", b"\x00\xff", b'{"port": 1, "password": "x", "locked": true}'])
def test_a_damaged_description_is_made_anew(home, text):
    write(home)
    FarmFolder(home).description.write_bytes(text)
    assert_it_works(home)


def test_what_cannot_be_a_farm_says_why(home):
    write(home)
    folder = FarmFolder(home)
    (folder.path / "members" / ".DS_Store").touch()
    (folder.path / "members" / "a folder").mkdir()
    assert_it_works(home)  # what a file manager leaves is nobody's member
    next(folder.journal.glob("*.manifest")).unlink()
    with (
        pytest.raises(BrokerUnreachable, match="did not start: the journal of this machine's jobs is damaged"),
        read(home),
    ):
        pass
    folder.description.mkdir()
    with pytest.raises(BrokerUnreachable, match=r"farm.json is a folder, which is in the way"), read(home):
        pass
    assert_nothing_runs(home)


def test_modules_of_the_current_folder_are_not_run(home, tmp_path, monkeypatch):
    for name in ("redis", "psutil", "json", "logging"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('run by mistake')")
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    with read(home) as address:
        assert address.answers()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "home"])


def test_the_farm_of_an_older_version_is_used_while_it_runs(home):
    folder = FarmFolder(home)
    folder.create()
    with folder.keeper_lock() as kept, old_server(folder) as old:
        folder.description.write_text(json.dumps({"port": old.port, "password": old.password}))
        with read(home) as address, address.connect() as client:
            assert address == old
            assert client.get("job") == b"kept"
            kept.release()
            old.connect().shutdown()


def test_a_full_disk_is_told(home, tmp_path):
    home.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", home]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no small filesystem can be mounted here")
    try:
        FarmFolder(home).create()
        with (home / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(b"x" * 1024)
        with pytest.raises(BrokerUnreachable, match=r"is full|No space left"), read(home):
            pass
        assert_nothing_runs(home)
        (home / "filler").unlink()
    finally:
        subprocess.run(["umount", "-l", home], check=True)
