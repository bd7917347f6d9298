"""Test a lock on a path, where flock works and on file systems that refuse it."""

import errno
import fcntl
import os
import subprocess
import sys

import pytest
from filelock import Timeout

from ltx_client.errors import BrokerUnreachable
from ltx_client.local.join import join, stop_up
from ltx_client.local.members import Use
from ltx_client.shared.doctor.checks import Level
from ltx_client.shared.process_lock import is_locked, lock_within
from ltx_client.shared.settings import FarmSettings
from ltx_client.terminal.client_checks import Machine
from ltx_models.files import hub
from ltx_models.files.file_lock import NO_LOCKS, file_lock, has_locks, why_not_lockable
from ltx_worker.machine.home import UnusableHome, make_home


@pytest.fixture(params=[None, *sorted(NO_LOCKS)], ids=lambda number: errno.errorcode.get(number, "locks"))
def file_system(request, monkeypatch):
    """Provide a file system with locks, and one for each error of those without."""
    if request.param is not None:

        def refuse(*_):
            raise OSError(request.param, os.strerror(request.param))

        monkeypatch.setattr(fcntl, "flock", refuse)
    return request.param


def test_one_at_a_time_and_the_next_afterwards(file_system, tmp_path):
    path = tmp_path / ".part.lock"
    with file_lock(path), pytest.raises(Timeout):
        file_lock(path).acquire(timeout=0)
    with file_lock(path):
        pass
    assert (tmp_path / ".part.locked").exists() is False
    assert has_locks(path) == (file_system is None)


def test_whoever_waits_for_a_download_says_so(file_system, tmp_path, monkeypatch):
    """On a share without locks, the file of a machine that is gone would be waited for silently, for ever."""
    monkeypatch.setattr(hub, "WAIT_SILENTLY", 0.05)
    path = tmp_path / ".part.lock"
    other, said = file_lock(path), []
    other.acquire()
    with hub._alone(path, "a.safetensors", lambda text: said.append(text) or other.release()):
        assert len(said) == 1 and f"rm '{other.lock_file}'" in said[0]
    with hub._alone(path, "a.safetensors", said.append):
        assert len(said) == 1


def test_a_process_that_was_killed_keeps_nobody_out(file_system, tmp_path):
    path = tmp_path / ".part.lock"
    no_locks = f"fcntl.flock = lambda *_: (_ for _ in ()).throw(OSError({file_system}, 'no'))" if file_system else ""
    program = f"import fcntl, os, sys\n{no_locks}\nfrom pathlib import Path\n"
    program += "from ltx_models.files.file_lock import file_lock\n"
    program += "file_lock(Path(sys.argv[1])).acquire()\nos.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", program, path], check=False, timeout=120).returncode == -9
    with file_lock(path).acquire(timeout=60):
        pass


def test_another_error_is_raised(monkeypatch, tmp_path):
    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match="Input/output error"):
        file_lock(tmp_path / "lock")


def test_a_home_that_cannot_be_locked_is_said_by_whoever_looks_at_it(file_system, tmp_path):
    """Two workers would be one to the farm, and nobody would notice."""
    (tmp_path / "farm" / "members").mkdir(parents=True)
    (found,) = Machine(FarmSettings(home=tmp_path, broker_url=None)).home()
    if file_system is None:
        make_home(tmp_path)
        assert stop_up(tmp_path) == 0 and found.level is not Level.FAILURE
        assert why_not_lockable(tmp_path / "nowhere") == "", "who writes there is told"
    else:
        assert found.level is Level.FAILURE and "has no locks" in found.text and "a disk of this machine" in found.fix
        with pytest.raises(UnusableHome, match="has no locks"):
            make_home(tmp_path)
        with pytest.raises(BrokerUnreachable, match="cannot be used"):
            stop_up(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["farm"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_home_whose_locks_fail_is_said(monkeypatch, tmp_path, number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)
    (found,) = Machine(FarmSettings(home=tmp_path, broker_url=None)).home()
    assert found.level is Level.FAILURE and os.strerror(number) in found.text
    with pytest.raises(OSError, match=os.strerror(number)):
        make_home(tmp_path)


def test_the_farm_of_one_machine_needs_them(monkeypatch, tmp_path):
    def refuse(*_):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", refuse)
    sentence = (
        "its file system has no locks, like that of many shares; set LTX_HOME to a folder on a disk of this machine"
    )
    with pytest.raises(BrokerUnreachable, match=sentence), join(tmp_path / "home", Use.READ, "pocket"):
        pass


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_process_that_runs_is_seen_by_its_lock_and_by_nothing_else(tmp_path, kind):
    path = tmp_path / "here"
    assert not is_locked(path), "nothing is there"
    path.mkdir() if kind == "folder" else path.touch()
    handles = [os.open(path, os.O_RDONLY) for _ in range(2)]
    assert not is_locked(path)
    assert lock_within(handles[0], 0)
    assert is_locked(path) and is_locked(path), "to ask does not take it"
    assert not lock_within(handles[1], 0.1)
    os.close(handles[0])
    assert lock_within(handles[1], 0)
    os.close(handles[1])


def test_a_file_system_without_locks_is_an_error_only_where_locks_are_needed(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    handle = os.open(tmp_path, os.O_RDONLY)
    for ask in (lambda **how: lock_within(handle, 0, **how), lambda **how: is_locked(tmp_path, **how)):
        with pytest.raises(OSError, match="not supported"):
            ask()
    assert lock_within(handle, 0, needs_locks=False)
    assert not is_locked(tmp_path, needs_locks=False)
    os.close(handle)
