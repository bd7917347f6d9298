"""Lock a farm's data while a server runs on it.

The lock is a `flock` on an open file that the server inherits and never closes. So it lasts exactly as long as the
server does, whoever started the server and however that process ended.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ltx_client.errors import FarmError
from ltx_client.shared.process_lock import is_locked, lock_within

__all__ = ["ServerLock"]

TIMEOUT = 5.0
"""Seconds to wait for the lock: a killed server may still be exiting."""


class ServerLock:
    """The lock at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextlib.contextmanager
    def take(self) -> Iterator[int]:
        """Take the lock while inside, and for longer if a process inherits the descriptor that this yields.

        Raises:
            FarmError: Another process has the lock.
        """
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if not lock_within(handle, TIMEOUT):
                raise FarmError(
                    f"another process has locked {self._path}, which is not a server of this machine; use another"
                    " LTX_HOME on each machine"
                )
            yield handle
        finally:
            os.close(handle)

    def is_taken(self) -> bool:
        """Return whether a server runs."""
        return is_locked(self._path)
