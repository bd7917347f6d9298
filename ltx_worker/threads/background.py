"""What a worker does concurrently with its renders: in threads that are watched, and never end for an error."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from ltx_worker.threads.daemon import daemon
from ltx_worker.threads.watched import LIMIT, THREADS, Loop, Threads

__all__ = ["Background", "keep_at_it", "watched"]

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
"""Seconds between two tries of what failed."""


class Background:
    """Run a named thread from `start` to `stop` that calls a subclass's `_cycle` again and again.

    What a call raises is noted, and the next one follows after longer and longer pauses.

    Attributes:
        limit: The seconds without a beat after which the thread counts as hanging.
        longest_pause: The most seconds between two tries.
    """

    def __init__(
        self, name: str, *, limit: float = LIMIT, longest_pause: float = LONGEST_PAUSE, threads: Threads = THREADS
    ) -> None:
        self._stopped = threading.Event()
        self._threads = threads
        self._limit = limit
        self._longest_pause = longest_pause
        self._loop: Loop | None = None
        self._thread = watched(self._run, name, limit=limit, threads=threads)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End what the thread does, and return then."""
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

    def _run(self, loop: Loop) -> None:
        self._loop = loop
        keep_at_it(self._cycle, loop, self._stopped, self._longest_pause)


def watched(
    run: Callable[[Loop], object], kind: str, *, name: str = "", limit: float = LIMIT, threads: Threads = THREADS
) -> threading.Thread:
    """Return a thread, yet to be started, that is a loop of this kind, watched over by `threads`, while it does `run`.

    Args:
        run: What the thread does; it is given its loop.
        kind: The kind of thread, such as `events` for every attempt's.
        name: The thread's own name, where there may be several of a kind.
        limit: Seconds without a beat after which it is taken to hang.
        threads: Those that it is one of.
    """

    def work() -> None:
        with threads.at_work(kind, limit) as loop:
            run(loop)

    return daemon(work, name or kind)


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
