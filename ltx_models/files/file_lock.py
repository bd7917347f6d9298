"""A lock on a path for one process at a time: the system's own where a file system has locks, else a file that says so.

Shares often have none: flock answers ENOTSUP on many SMB servers, and on NFS that is mounted without locks.
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
"""What flock answers where a file system has no locks."""
NO_LOCKS_HERE = (
    "cannot be used: its file system has no locks, as a share's may not; set LTX_HOME to a folder on a disk of this"
    " machine"
)


def file_lock(path: Path) -> BaseFileLock:
    """Return a lock for `with`, of which `path` is the file. Raises OSError where that file cannot be made.

    A process that is killed leaves no lock of the system's. The file of the other kind names its process and host, and
    is taken away by the next process of that host.
    """
    return FileLock(path) if has_locks(path) else SoftFileLock(path.with_name(f"{path.name}ed"))


def has_locks(path: Path) -> bool:
    """Return whether the file system of a file, which is made where there is none, has locks. Raises OSError."""
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
    """Return why a folder cannot be one process's alone, in words that follow its name; "" where it can, or nothing can
    be made in it. Raises OSError where the lock of a new file fails otherwise.
    """
    try:
        probe = tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-")  # noqa: SIM115 - an error of its own is none
    except OSError:
        return ""
    with probe:
        return "" if has_locks(Path(probe.name)) else NO_LOCKS_HERE
