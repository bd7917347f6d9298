"""Lock a path for one process at a time, also on file systems without locks.

The lock is the operating system's where the file system has locks, else a file. Shares often have no locks: flock
returns ENOTSUP on many SMB servers, and on NFS that is mounted without locks.
"""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock

__all__ = ["NO_LOCKS", "file_lock", "has_locks", "why_not_lockable"]

NO_LOCKS = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL})
"""The errors of flock on file systems without locks."""
NO_LOCKS_HERE = (
    "cannot be used: its file system has no locks, like that of many shares; set LTX_HOME to a folder on a disk of this"
    " machine"
)


def file_lock(path: Path) -> BaseFileLock:
    """Return a lock for `with` whose file is `path`. Raise OSError where that file cannot be created.

    A process that is killed leaves no lock of the operating system. Without those, the lock is a file that names its
    process and host, and that the next process of the same host removes.
    """
    return FileLock(path) if has_locks(path) else SoftFileLock(path.with_name(f"{path.name}ed"))


def has_locks(path: Path) -> bool:
    """Return whether the file system of a file has locks; create the file if it does not exist. Raise OSError."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno in NO_LOCKS:
            return False
        raise
    finally:
        os.close(handle)
    return True


def why_not_lockable(folder: Path) -> str:
    """Return why a folder cannot be locked for one process, or "".

    Returns:
        Words that follow the folder's name; "" where it can be locked, or no file can be created in it.

    Raises:
        OSError: The lock of a new file fails in another way.
    """
    try:
        probe = tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-")  # noqa: SIM115 - an error of its own is none
    except OSError:
        return ""
    with probe:
        return "" if has_locks(Path(probe.name)) else NO_LOCKS_HERE
