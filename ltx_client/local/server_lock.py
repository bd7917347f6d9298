"""The lock that says whether a server runs on a farm's data.

It is a `flock` on an open file that the server inherits and never closes. So it lasts exactly as long as the server
does, whoever started the server and however that process ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from ltx_client.errors import FarmError

__all__ = ["ServerLock"]

PATIENCE = 5.0
"""Seconds to wait for the lock: a server that was killed may still be unwinding."""


class ServerLock:
    """The lock at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextlib.contextmanager
    def take(self) -> Iterator[int]:
        """Take the lock while inside, and longer where a process inherits the descriptor that this yields.

        Raises FarmError where another process has it.
        """
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            deadline = time.monotonic() + PATIENCE
            while not _lock(handle, fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    raise FarmError(
                        f"another process has locked {self._path}, and it is no server of this machine; give each"
                        " machine an LTX_HOME of its own"
                    )
                time.sleep(0.05)
            yield handle
        finally:
            os.close(handle)

    def is_taken(self) -> bool:
        """Return whether a server runs."""
        try:
            handle = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            return not _lock(handle, fcntl.LOCK_SH)  # shared: two who ask at the same time do not see each other
        finally:
            os.close(handle)


def _lock(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
