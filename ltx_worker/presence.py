"""One worker for each LTX_HOME, and how the others of its commands find it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

__all__ = ["DRAIN_SIGNAL", "RESUME_SIGNAL", "AlreadyRunning", "presence", "running_worker"]

DRAIN_SIGNAL = signal.SIGUSR1
"""Finish the job in hand, take no more, end."""
RESUME_SIGNAL = signal.SIGUSR2
"""Take jobs again, after a pause."""


class AlreadyRunning(Exception):
    """Another worker runs with the same LTX_HOME."""


def _paths(home: Path) -> tuple[Path, Path]:
    return home / "worker.lock", home / "worker.pid"


@contextlib.contextmanager
def presence(home: Path) -> Iterator[None]:
    """While inside, this process is the worker of `home`. Raises AlreadyRunning."""
    home.mkdir(parents=True, exist_ok=True)
    lock_path, pid_path = _paths(home)
    lock = FileLock(lock_path)
    try:
        lock.acquire(timeout=1)
    except Timeout:
        raise AlreadyRunning(
            f"a worker runs here already (process {running_worker(home)}); another one needs an LTX_HOME of its own"
        ) from None
    try:
        pid_path.write_text(str(os.getpid()))
        yield
    finally:
        pid_path.unlink(missing_ok=True)
        lock.release()


def running_worker(home: Path) -> int | None:
    """The process id of the worker of `home`, if one runs."""
    lock_path, pid_path = _paths(home)
    if not lock_path.exists():
        return None
    lock = FileLock(lock_path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return int(pid_path.read_text())
    lock.release()
    return None
