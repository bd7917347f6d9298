"""A lock on a path, where flock works and on file systems that answer that it does not."""

import errno
import fcntl
import os
import subprocess
import sys

import pytest
from filelock import Timeout

from ltx_client.errors import BrokerUnreachable
from ltx_client.local.join import join
from ltx_client.local.members import Use
from ltx_models.file_lock import NO_LOCKS, file_lock, has_locks


@pytest.fixture(params=[None, *sorted(NO_LOCKS)], ids=lambda number: errno.errorcode.get(number, "locks"))
def file_system(request, monkeypatch):
    """One with locks, and one for each answer of those without."""
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


def test_a_process_that_was_killed_keeps_nobody_out(file_system, tmp_path):
    path = tmp_path / ".part.lock"
    no_locks = f"fcntl.flock = lambda *_: (_ for _ in ()).throw(OSError({file_system}, 'no'))" if file_system else ""
    program = (
        f"import fcntl, os, sys\n{no_locks}\nfrom ltx_models.file_lock import file_lock\nfrom pathlib import Path\n"
    )
    program += "file_lock(Path(sys.argv[1])).acquire()\nos.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", program, path], check=False, timeout=30).returncode == -9
    with file_lock(path).acquire(timeout=5):
        pass


def test_another_error_is_raised(monkeypatch, tmp_path):
    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match="Input/output error"):
        file_lock(tmp_path / "lock")


def test_the_farm_of_one_machine_needs_them(monkeypatch, tmp_path):
    def refuse(*_):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", refuse)
    sentence = "its file system has no locks, as a share's may not; set LTX_HOME to a folder on a disk of this machine"
    with pytest.raises(BrokerUnreachable, match=sentence), join(tmp_path / "home", Use.READ, "pocket"):
        pass
