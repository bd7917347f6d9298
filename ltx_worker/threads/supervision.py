"""Watches over the threads of a worker: one that cannot go on makes it take no jobs, and ends it after a while."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from ltx_client.shared.doctor.replay_check import USERS
from ltx_worker.threads.background import Background
from ltx_worker.threads.watched import THREADS, Loop, Threads

__all__ = ["Supervisor"]

log = logging.getLogger(__name__)

LOOKS = 10
"""In each bound, at least so many."""


@dataclass
class _Watched:
    """What was seen of a loop: its signs of life; for how many seconds it was silent, at fault, and without a right."""

    signs: int = -1
    silent: float = 0.0
    at_fault: float = 0.0
    lacking: float = 0.0


class Supervisor(Background):
    """Run a thread that supervises the worker's loops.

    A loop makes the worker unready if it fails, or is refused a right by the broker, for `unready_after` seconds, or is
    silent for its limit. `end` is called with the reason if a loop fails for `end_after` seconds, is silent for as many
    more, or its thread has ended.

    Seconds count only while this thread runs itself: a machine that slept, or a process that was suspended, has done
    nothing wrong.
    """

    def __init__(
        self,
        end: Callable[[str], object],
        *,
        unready_after: float = 30.0,
        end_after: float = 300.0,
        threads: Threads = THREADS,
    ) -> None:
        super().__init__("supervisor", threads=threads)
        self._end = end
        self._unready_after = unready_after
        self._end_after = end_after
        self._every = min(1.0, unready_after / LOOKS)
        self._watched: dict[Loop, _Watched] = {}
        self._looked_at = time.monotonic()
        self._ending = False

    def _cycle(self) -> None:
        now = time.monotonic()
        elapsed, self._looked_at = min(now - self._looked_at, 2 * self._every), now
        self._watched = {loop: self._see(loop, elapsed) for loop in self._threads.loops}
        self._say(next(filter(None, map(self._why_unready, self._watched)), ""))
        if not self._ending and (why := next(filter(None, map(self._why_over, self._watched)), "")):
            self._ending = True
            self._end(why)
        self._stopped.wait(self._every)

    def _see(self, loop: Loop, elapsed: float) -> _Watched:
        seen = self._watched.get(loop, _Watched())
        is_alive = loop.signs != seen.signs or loop.may_be_silent()
        return _Watched(
            loop.signs,
            0.0 if is_alive else seen.silent + elapsed,
            seen.at_fault + elapsed if loop.at_fault else 0.0,
            seen.lacking + elapsed if loop.lacking else 0.0,
        )

    def _say(self, why: str) -> None:
        if bool(why) != bool(self._threads.why_unready):
            log.critical("this worker takes no jobs: %s", why) if why else log.info("this worker takes jobs again")
        self._threads.why_unready = why

    def _why_unready(self, loop: Loop) -> str:
        seen = self._watched[loop]
        if not loop.thread.is_alive():
            return f"its thread {loop.kind} has ended"
        if seen.at_fault >= self._unready_after:
            return f"its thread {loop.kind} cannot go on: {loop.at_fault}"
        if seen.lacking >= self._unready_after:
            return f"the broker refuses its thread {loop.kind} a right: {loop.lacking}; {USERS}"
        if seen.silent >= loop.limit:
            return f"its thread {loop.kind} has not moved for {seen.silent:.0f} s"
        return ""

    def _why_over(self, loop: Loop) -> str:
        seen = self._watched[loop]
        over = seen.at_fault >= self._end_after or seen.silent >= loop.limit + self._end_after
        return self._why_unready(loop) if over or not loop.thread.is_alive() else ""
