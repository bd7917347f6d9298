"""Test that there is one worker for each LTX_HOME, whatever is removed from that folder meanwhile."""

import os
import shutil
from pathlib import Path

import pytest

from ltx_worker.membership.instance_lock import (
    AlreadyRunning,
    InstanceLock,
    InstanceLockWatch,
    instance_lock,
    is_ending,
    running_worker,
)
from tests.integration.conftest import wait_until


def another_worker(home):
    """Return what the start of one says; a lock is an open file's, in whichever process."""
    try:
        with instance_lock(home):
            return "took it"
    except AlreadyRunning as error:
        return str(error)


def empty(home):
    for path in home.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


REMOVED = {
    "all that is in the folder": empty,
    "the lock": lambda home: (home / "worker.lock").unlink(),
    "the process id": lambda home: (home / "worker.pid").unlink(),
    "the lock, and another is there": lambda home: ((home / "worker.lock").unlink(), (home / "worker.lock").touch()),
    "the process id, and another is there": lambda home: (home / "worker.pid").write_text("1"),
    "the folder": lambda home: shutil.rmtree(home, ignore_errors=True),  # the worker may make it again meanwhile
    "the folder, which has another name": lambda home: home.rename(home.with_name("renamed")),
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr("ltx_worker.membership.instance_lock.LOCK_TIMEOUT", 0.05)
    monkeypatch.setattr("ltx_worker.membership.instance_lock.CHECK_EVERY", 0.05)
    return tmp_path / "home"


@pytest.fixture
def watched(home):
    """Return a worker's lock, and the reasons for which its watch ended the worker."""
    reasons = []
    with instance_lock(home) as here:
        watch = InstanceLockWatch(here, reasons.append)
        watch.start()
        yield reasons
        watch.stop()


def test_from_beginning_to_end(home):
    assert running_worker(home) is None
    with instance_lock(home) as here:
        assert running_worker(home) == os.getpid()
        assert here.is_whole()
        assert f"process {os.getpid()}" in another_worker(home)
    assert running_worker(home) is None
    assert another_worker(home) == "took it"


@pytest.mark.parametrize("what", REMOVED)
def test_what_is_removed_is_made_again(home, watched, what):
    REMOVED[what](home)
    wait_until(lambda: running_worker(home) == os.getpid(), what="the process id")
    wait_until((home / "worker.lock").exists, what="the lock")
    assert "a worker runs here already" in another_worker(home)
    assert watched == []


@pytest.mark.parametrize("what", [what for what in REMOVED if not what.startswith("the folder")])
def test_no_other_worker_gets_in_even_before_it_is_made_again(home, what):
    with instance_lock(home):
        REMOVED[what](home)
        assert "a worker runs here already" in another_worker(home)
        assert running_worker(home) in (0, 1, os.getpid())


def test_a_worker_whose_folder_another_has_taken_ends(home):
    reasons = []
    with instance_lock(home) as here:
        home.rename(home.with_name("renamed"))
        with instance_lock(home):
            watch = InstanceLockWatch(here, reasons.append)
            watch.start()
            wait_until(lambda: reasons, what="the end")
            watch.stop()
    (reason,) = reasons
    assert reason.startswith("another worker has locked its LTX_HOME: a worker runs here already")


@pytest.mark.parametrize("lying", ["nothing", "a folder", "not a number", "of one that was killed"])
def test_that_a_worker_is_ending_is_seen_until_it_has_ended(home, lying):
    mark = home / "worker.ending"
    home.mkdir()
    match lying:
        case "a folder":
            mark.mkdir()
        case "not a number":
            mark.write_bytes(b"\xff" * 100)
        case "of one that was killed":
            mark.write_text(str(os.getpid()))  # whose number is another worker's by now
    with instance_lock(home) as here:
        assert not is_ending(home, os.getpid()) and not is_ending(home, 0)
        here.note_ending()
        assert is_ending(home, os.getpid()) == (lying != "a folder")
        assert running_worker(home) == os.getpid()
    assert lying == "a folder" or not mark.exists()


def test_a_worker_of_an_older_version_is_seen_by_its_lock_alone(home):
    """It sees a new one's lock too."""
    from filelock import FileLock, Timeout

    home.mkdir()
    with FileLock(home / "worker.lock"):
        (home / "worker.pid").write_text("4711")
        assert running_worker(home) == 4711
        with pytest.raises(AlreadyRunning, match="4711"), instance_lock(home):
            pass
    with instance_lock(home), pytest.raises(Timeout):
        FileLock(home / "worker.lock").acquire(timeout=0)


def test_a_file_system_that_locks_no_folders(home, monkeypatch):
    import fcntl

    flock = fcntl.flock

    def only_files(handle, kind):
        if Path(f"/proc/self/fd/{handle}").is_dir() or os.fstat(handle).st_mode & 0o040000:
            raise OSError(9, "Bad file descriptor")
        flock(handle, kind)

    monkeypatch.setattr(fcntl, "flock", only_files)
    with instance_lock(home):
        assert running_worker(home) == os.getpid()
        with pytest.raises(AlreadyRunning), instance_lock(home):
            pass


@pytest.mark.parametrize("name", ["worker.lock", "worker.pid"])
def test_without_space_for_its_files_it_is_there_all_the_same(home, monkeypatch, name):
    home.mkdir()
    opened = os.open

    def full(path, flags, *rest, **options):
        if Path(path).name == name and flags & os.O_CREAT and not Path(path).exists():
            raise OSError(28, "No space left on device")
        return opened(path, flags, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        here = InstanceLock(home)
        here.take()
        assert not here.is_whole()
        assert running_worker(home) == (0 if name == "worker.pid" else os.getpid())
        assert "a worker runs here already" in another_worker(home)
    here.take()
    assert here.is_whole()
    here.leave()
