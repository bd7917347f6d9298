"""Ensure one worker for each LTX_HOME, and find the running one for the other commands.

The worker locks the folder itself, and a file in it, which older versions check. A second worker is therefore kept out
even when everything in the folder is removed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ltx_client.shared.process_lock import is_locked, lock_within
from ltx_worker.machine.home import ENDING, LOCK, PID
from ltx_worker.threads.background import Background

__all__ = [
    "DRAIN_SIGNAL",
    "RESUME_SIGNAL",
    "AlreadyRunning",
    "InstanceLock",
    "InstanceLockWatch",
    "instance_lock",
    "is_ending",
    "running_worker",
]

DRAIN_SIGNAL = signal.SIGUSR1
"""Finish the current job, take no more, end."""
RESUME_SIGNAL = signal.SIGUSR2
"""Take jobs again, after a pause."""
LOCK_TIMEOUT = 1.0
"""Seconds to wait for a lock: another process may only be checking whether it is taken."""
CHECK_EVERY = 0.5
PID_TIMEOUT = 3 * CHECK_EVERY
"""Seconds until a worker has written its process id again."""


class AlreadyRunning(Exception):
    """Another worker runs with the same LTX_HOME."""


class InstanceLock:
    """The lock that makes this process the worker of `home`, from `take` to `leave`."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._locked: dict[Path, int] = {}

    def take(self) -> None:
        """Lock whatever is not locked yet, or was removed or replaced since, and write the process id.

        Without space for a new file, the lock on the folder is enough. A file system without locks gives none.

        Raises:
            AlreadyRunning: another worker has the lock.
            OSError: the folder or file cannot be made.
        """
        self._home.mkdir(parents=True, exist_ok=True)
        for path, flags in ((self._home, os.O_RDONLY), (self._home / LOCK, os.O_RDWR | os.O_CREAT)):
            if not self._has(path):
                self._lock(path, flags)
        with contextlib.suppress(OSError):  # for example, on a full disk: it is tried again
            if not self._has_written_pid():
                _write_in_place(self._home / PID, str(os.getpid()))

    def is_whole(self) -> bool:
        """Return whether other processes can still find this worker: both locks and the process id are in place."""
        return all(map(self._has, (self._home, self._home / LOCK))) and self._has_written_pid()

    def note_ending(self) -> None:
        """Record in the folder that this worker was asked to end, if that can be written."""
        self.forget_ending()  # which may be another user's
        with contextlib.suppress(OSError):
            _write_in_place(self._home / ENDING, str(os.getpid()))

    def forget_ending(self) -> None:
        """Remove the mark of `note_ending`, which may be an earlier worker's that was killed."""
        with contextlib.suppress(OSError):
            (self._home / ENDING).unlink(missing_ok=True)

    def leave(self) -> None:
        """Release the locks and remove the process id."""
        if self._has_written_pid():
            (self._home / PID).unlink(missing_ok=True)
        if is_ending(self._home, os.getpid()):
            self.forget_ending()
        while self._locked:
            os.close(self._locked.popitem()[1])

    def _has(self, path: Path) -> bool:
        """Return whether the file or folder at a path is the one that this process has locked."""
        try:
            return path in self._locked and os.path.samestat(os.fstat(self._locked[path]), path.stat())
        except OSError:
            return False

    def _lock(self, path: Path, flags: int) -> None:
        try:
            handle = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
        except OSError:
            if self._home in self._locked and not path.exists():
                return
            raise
        if not lock_within(handle, LOCK_TIMEOUT, needs_locks=False):
            os.close(handle)
            pid = _read_pid(self._home / PID)
            raise AlreadyRunning(
                f"a worker runs here already ({f'process {pid}' if pid else 'its process id is unknown'}); for another"
                " one, set LTX_HOME to a folder of its own"
            )
        if path in self._locked:
            os.close(self._locked[path])
        self._locked[path] = handle

    def _has_written_pid(self) -> bool:
        return _read_pid(self._home / PID) == os.getpid()


class InstanceLockWatch(Background):
    """A thread that takes a worker's lock again when its files were removed.

    Args:
        instance_lock: the lock.
        end: is called with the reason when another worker has the lock.
    """

    def __init__(self, instance_lock: InstanceLock, end: Callable[[str], object]) -> None:
        super().__init__("instance-lock")
        self._lock = instance_lock
        self._end = end
        self._is_ending = False

    def _cycle(self) -> None:
        if not self._is_ending and not self._lock.is_whole():
            try:
                self._lock.take()
            except AlreadyRunning as error:
                self._is_ending = True
                self._end(f"another worker has locked its LTX_HOME: {error}")
        self._stopped.wait(CHECK_EVERY)


@contextlib.contextmanager
def instance_lock(home: Path) -> Iterator[InstanceLock]:
    """Make this process the worker of `home` while inside.

    Raises:
        AlreadyRunning: another worker has the lock.
    """
    here = InstanceLock(home)
    try:
        here.take()
        here.forget_ending()
        yield here
    finally:
        here.leave()


def running_worker(home: Path) -> int | None:
    """Return the process id of the worker of `home`: None if none runs, 0 if one does and its id is unknown.

    Raises:
        OSError: the folder cannot be read.
    """
    deadline = time.monotonic() + PID_TIMEOUT
    while any(is_locked(path, needs_locks=False) for path in (home, home / LOCK)):
        if pid := _read_pid(home / PID):
            return pid
        if time.monotonic() > deadline:
            return 0
        time.sleep(0.05)
    return None


def is_ending(home: Path, pid: int) -> bool:
    """Return whether the worker of `home` with this process id was asked to end; it may still have a job to finish."""
    return pid > 0 and _read_pid(home / ENDING) == pid


def _read_pid(path: Path) -> int | None:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        pid = int(os.read(handle, 20))
    except (OSError, ValueError):  # for example, of a folder
        return None
    finally:
        os.close(handle)
    return pid if pid > 0 else None


def _write_in_place(path: Path, text: str) -> None:
    """Overwrite a file in place, which needs no more space on a full disk."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    with os.fdopen(handle, "w") as file:
        file.write(text)
        file.flush()
        file.truncate()
