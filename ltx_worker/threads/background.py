"""What a worker does beside its renders: in threads that never end for an error."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from ltx_worker.threads.watched import LIMIT, THREADS, Loop, Threads

__all__ = ["Background", "keep_at_it"]

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
"""Seconds between two tries of what failed."""


class Background:
    """A thread from `start` to `stop`, named `name`, which does a subclass's `_cycle` again and again; whatever that
    raises is noted, and it is tried again, with longer and longer pauses.

    limit: seconds without a beat after which it is taken to hang.  longest_pause: between two tries.
    """

    def __init__(
        self, name: str, *, limit: float = LIMIT, longest_pause: float = LONGEST_PAUSE, threads: Threads = THREADS
    ) -> None:
        self._stopped = threading.Event()
        self._threads = threads
        self._limit = limit
        self._longest_pause = longest_pause
        self._loop: Loop | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends what it does, and returns then."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _cycle(self) -> None:
        """Do one piece of the work, and wait for the next one; return soon after `_stopped` was set."""
        raise NotImplementedError

    def _beat(self) -> None:
        """Say, in the middle of a cycle, that a piece of the work was done."""
        if self._loop is not None:
            self._loop.beat()

    def _note(self, error: BaseException) -> None:
        """Count an error for which nothing has to be done again: one thing of several was set aside."""
        if self._loop is not None:
            self._loop.note(error)

    def _run(self) -> None:
        with self._threads.at_work(self._thread.name, self._limit) as self._loop:
            keep_at_it(self._cycle, self._loop, self._stopped, self._longest_pause)


def keep_at_it(
    cycle: Callable[[], object], loop: Loop, stopped: threading.Event, longest_pause: float = LONGEST_PAUSE
) -> None:
    """Call `cycle` until `stopped` is set, whatever it raises: an error must not end the thread unseen."""
    failures = 0
    while not stopped.is_set():
        try:
            cycle()
        except BaseException as error:  # noqa: BLE001 - also SystemExit, of which Python says nothing in a thread
            failures = failures + 1 if loop.failing else 1
            with contextlib.suppress(Exception):  # there may be no memory left to say it with
                loop.fail(error)
            stopped.wait(min(longest_pause, FIRST_PAUSE * 2 ** min(failures - 1, 10)))
        else:
            loop.beat()
