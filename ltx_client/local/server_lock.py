"""The lock that says whether a server runs on a farm's data.

It is a `flock` on an open file that the server inherits and never closes. So it lasts exactly as long as the server
does, whoever started the server and however that process ended.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ltx_client.errors import FarmError
from ltx_client.shared.process_lock import is_locked, lock_within

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
            if not lock_within(handle, PATIENCE):
                raise FarmError(
                    f"another process has locked {self._path}, and it is no server of this machine; give each"
                    " machine an LTX_HOME of its own"
                )
            yield handle
        finally:
            os.close(handle)

    def is_taken(self) -> bool:
        """Return whether a server runs."""
        return is_locked(self._path)
