"""Lock an open file or folder with the system's lock (`flock`), to show that a process runs.

The lock lasts as long as the process that took it and those that inherit the descriptor, however they end.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from pathlib import Path

__all__ = ["is_locked", "lock_within"]

log = logging.getLogger(__name__)

TRY_EVERY = 0.05


def lock_within(handle: int, seconds: float, *, needs_locks: bool = True) -> bool:
    """Lock an open file for this process alone.

    Args:
        handle: The file's descriptor.
        seconds: How long to wait while another process has it locked.
        needs_locks: Whether a file system without locks raises OSError; otherwise it counts as locked.

    Returns:
        False if another process still has it locked.
    """
    deadline = time.monotonic() + seconds
    while not _try_lock(handle, fcntl.LOCK_EX, needs_locks):
        if time.monotonic() > deadline:
            return False
        time.sleep(TRY_EVERY)
    return True


def is_locked(path: Path, *, needs_locks: bool = True) -> bool:
    """Return whether a process has locked the file or folder; False if it does not exist.

    Args:
        path: The file or folder.
        needs_locks: Whether a file system without locks raises OSError; otherwise nothing is locked there.

    Raises:
        OSError: The lock cannot be tested.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # Shared, so that two processes that test at the same time do not see each other.
        return not _try_lock(handle, fcntl.LOCK_SH, needs_locks)
    finally:
        os.close(handle)


def _try_lock(handle: int, kind: int, needs_locks: bool) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # as some network file systems answer, of folders
        if needs_locks:
            raise
        log.debug("cannot be locked: %s", error)
    return True
