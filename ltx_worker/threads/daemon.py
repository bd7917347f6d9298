"""Makes every thread of a worker and of its engine; nobody else does (`tests/unit/worker/threads/test_daemon.py`).

The worker's own threads are watched: `watched` in `threads/background.py`, and `Background`, make them. Nothing but the
standard library is imported here, for the engine's process and the command line make threads too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

__all__ = ["concurrently", "daemon"]

P = ParamSpec("P")
T = TypeVar("T")


def daemon(run: Callable[[], object], name: str) -> threading.Thread:
    """Return a thread, yet to be started, that does `run`, and that no process waits for when it ends."""
    return threading.Thread(target=run, name=name, daemon=True)


def concurrently(name: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Call a function in a thread of that name; return what it will have returned, or raised."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            future.set_exception(error)

    daemon(run, name).start()
    return future
