"""One worker for each LTX_HOME, and how the others of its commands find it.

The worker has the folder itself locked, and a file in it: that is what older versions look for. So who removes all that
is in the folder does not let a second worker in.
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
    "Presence",
    "PresenceWatch",
    "is_ending",
    "presence",
    "running_worker",
]

DRAIN_SIGNAL = signal.SIGUSR1
"""Finish the job in hand, take no more, end."""
RESUME_SIGNAL = signal.SIGUSR2
"""Take jobs again, after a pause."""
PATIENCE = 1.0
"""Seconds to wait for a lock: somebody may only be asking whether it is taken."""
LOOK_EVERY = 0.5
PID_WITHIN = 3 * LOOK_EVERY
"""Seconds until a worker has written its process id again."""


class AlreadyRunning(Exception):
    """Another worker runs with the same LTX_HOME."""


class Presence:
    """This process as the worker of `home`, from `take` to `leave`."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._locked: dict[Path, int] = {}

    def take(self) -> None:
        """Lock what is not locked yet, or was removed or replaced since, and write the process id. Raise AlreadyRunning
        where another worker was faster, and OSError where the folder or file cannot be made.

        Without space for a new file the lock on the folder is enough. What a file system cannot lock, it cannot.
        """
        self._home.mkdir(parents=True, exist_ok=True)
        for path, flags in ((self._home, os.O_RDONLY), (self._home / LOCK, os.O_RDWR | os.O_CREAT)):
            if not self._has(path):
                self._lock(path, flags)
        with contextlib.suppress(OSError):  # as on a full disk: it is tried again
            if not self._is_told():
                _write_in_place(self._home / PID, str(os.getpid()))

    def is_whole(self) -> bool:
        """Return whether everybody can still see that this worker runs."""
        return all(map(self._has, (self._home, self._home / LOCK))) and self._is_told()

    def note_ending(self) -> None:
        """Tell whoever asks that this worker was told to end, where that can be kept."""
        self.forget_ending()  # which may be another user's
        with contextlib.suppress(OSError):
            _write_in_place(self._home / ENDING, str(os.getpid()))

    def forget_ending(self) -> None:
        """Remove the mark of `note_ending`, as of an earlier worker that was killed meanwhile."""
        with contextlib.suppress(OSError):
            (self._home / ENDING).unlink(missing_ok=True)

    def leave(self) -> None:
        """Give the folder up."""
        if self._is_told():
            (self._home / PID).unlink(missing_ok=True)
        if is_ending(self._home, os.getpid()):
            self.forget_ending()
        while self._locked:
            os.close(self._locked.popitem()[1])

    def _has(self, path: Path) -> bool:
        """Return whether what lies there now is what this process has locked."""
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
        if not lock_within(handle, PATIENCE, needs_locks=False):
            os.close(handle)
            pid = _read_pid(self._home / PID)
            raise AlreadyRunning(
                f"a worker runs here already ({f'process {pid}' if pid else 'its process is not known'}); another"
                " one needs an LTX_HOME of its own"
            )
        if path in self._locked:
            os.close(self._locked[path])
        self._locked[path] = handle

    def _is_told(self) -> bool:
        return _read_pid(self._home / PID) == os.getpid()


class PresenceWatch(Background):
    """A thread that makes a worker's presence whole again where its files were removed; where another worker has taken
    the folder meanwhile, it calls `end` with the reason.
    """

    def __init__(self, presence: Presence, end: Callable[[str], object]) -> None:
        super().__init__("presence")
        self._presence = presence
        self._end = end
        self._is_ending = False

    def _cycle(self) -> None:
        if not self._is_ending and not self._presence.is_whole():
            try:
                self._presence.take()
            except AlreadyRunning as error:
                self._is_ending = True
                self._end(f"its LTX_HOME was taken from it: {error}")
        self._stopped.wait(LOOK_EVERY)


@contextlib.contextmanager
def presence(home: Path) -> Iterator[Presence]:
    """While inside, this process is the worker of `home`. Raises AlreadyRunning."""
    here = Presence(home)
    try:
        here.take()
        here.forget_ending()
        yield here
    finally:
        here.leave()


def running_worker(home: Path) -> int | None:
    """Return the process id of the worker of `home`, if one runs; 0 where one does and its id is not known. Raise
    OSError.
    """
    deadline = time.monotonic() + PID_WITHIN
    while any(is_locked(path, needs_locks=False) for path in (home, home / LOCK)):
        if pid := _read_pid(home / PID):
            return pid
        if time.monotonic() > deadline:
            return 0
        time.sleep(0.05)
    return None


def is_ending(home: Path, pid: int) -> bool:
    """Return whether the worker of `home` that is this process was told to end; it may have a job to finish yet."""
    return pid > 0 and _read_pid(home / ENDING) == pid


def _read_pid(path: Path) -> int | None:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        pid = int(os.read(handle, 20))
    except (OSError, ValueError):  # as of a folder
        return None
    finally:
        os.close(handle)
    return pid if pid > 0 else None


def _write_in_place(path: Path, text: str) -> None:
    """What was written before needs no more room on a full disk."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    with os.fdopen(handle, "w") as file:
        file.write(text)
        file.flush()
        file.truncate()
