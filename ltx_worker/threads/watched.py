"""Watches the threads of a worker: when each was last seen at work, and what went wrong in it.

Each is a *loop*: it beats whenever it has done a piece of its work, and notes every error. What is counted of a kind of
thread, such as `events` for every attempt's, stays when a thread of it ends.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import redis

from ltx_client.protocol.clock import CLOCK
from ltx_client.protocol.workers import ThreadInfo
from ltx_client.shared.broker.outages import causes, error_code, is_outage

__all__ = [
    "LIMIT",
    "LIVE_EVERY",
    "STORAGE_LIMIT",
    "THREADS",
    "Loop",
    "Threads",
    "acquire",
    "brief",
    "is_exhausted",
    "join",
]

log = logging.getLogger(__name__)

LIMIT = 300.0
"""Seconds without a beat after which a loop is taken to hang: what it waits for is bounded by less."""
STORAGE_LIMIT = 3600.0
"""The same of loops that write to the farm's storage, which may be slow."""
LIVE_EVERY = 1.0
"""Seconds between two signs of life of a loop that waits."""
TELL_EVERY = 300.0
"""Seconds between two lines of the log about errors of one kind in a row."""
LONGEST_ERROR = 200
"""Characters."""
OF_ATTEMPTS = frozenset({"consumer", "events", "finisher", "heartbeat", "leases", "reaper", "render", "spool"})
"""Those whose commands are refused when a lease cannot be renewed; a right that another lacks says nothing of that."""
NO_RIGHT = "NOPERM"
"""The code of the error by which a broker refuses a user a command, key or channel."""
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})
"""Of this machine or process: also where redis-py tells it as an error of its connection."""


@dataclass
class _History:
    """What went wrong in the threads of one kind, since the worker began."""

    errors: int = 0
    last: str = ""
    at: float | None = None
    told_at: dict[str, float] = field(default_factory=dict)


class Loop:
    """Is one thread at work.

    limit: seconds without a beat after which it hangs.  may_be_silent: whether it does not beat now for a good reason.
    signs: how often it gave a sign of life.  failing: whether its last piece of work failed; at_fault: since then with
    an error that is not the broker's.  lacking: the error by which the broker last refused it a right, since when it
    has done nothing.
    """

    def __init__(
        self,
        kind: str,
        thread: threading.Thread,
        note: Callable[[Loop, BaseException], None],
        limit: float = LIMIT,
        may_be_silent: Callable[[], bool] = bool,
    ) -> None:
        self.kind = kind
        self.thread = thread
        self.limit = limit
        self.may_be_silent = may_be_silent
        self.signs = 0
        self.beat_at = time.monotonic()
        self.failing = False
        self.at_fault = ""
        self.lacking = ""
        self._note = note

    def beat(self) -> None:
        """Say that a piece of work was done."""
        self.signs += 1
        self.lacking = ""
        self.beat_at = time.monotonic()
        if self.failing:
            self.failing, self.at_fault = False, ""
            log.info("thread %s: works again", self.kind)

    def live(self) -> None:
        """Say that the thread is at work, in the middle of a piece of it."""
        self.signs += 1
        self.lacking = ""

    def note(self, error: BaseException) -> None:
        """Count an error, and log it where it is news; the loop itself goes on."""
        self.signs += 1
        if isinstance(error, redis.RedisError):
            self.lacking = brief(error) if error_code(error) == NO_RIGHT else ""
        self._note(self, error)

    def fail(self, error: BaseException) -> None:
        """Note an error for which a piece of work has to be done again."""
        self.failing = True
        if is_exhausted(error) or not is_outage(error):
            self.at_fault = brief(error)
        self.note(error)


class Threads:
    """Knows the threads of one process. on_error: is told the kind of thread and of error, for each error."""

    def __init__(self) -> None:
        self.on_error: Callable[[str, str], None] = lambda *_: None
        self.refused_at = -math.inf
        """When the broker last did not answer, or refused a command that attempts need (monotonic seconds)."""
        self.why_unready = ""
        """Why the worker takes no jobs since one of its threads cannot go on: a sentence, or nothing."""
        self._loops: list[Loop] = []
        self._histories: dict[str, _History] = {}
        self._changing = threading.Lock()

    @contextlib.contextmanager
    def at_work(self, kind: str, limit: float = LIMIT) -> Iterator[Loop]:
        """Make the current thread a loop of that kind while inside."""
        loop = self.adopt(kind, threading.current_thread(), limit)
        try:
            yield loop
        finally:
            self.release(loop)

    def adopt(
        self, kind: str, thread: threading.Thread, limit: float = math.inf, may_be_silent: Callable[[], bool] = bool
    ) -> Loop:
        """Watch over a thread that others have made, until `release`."""
        loop = Loop(kind, thread, self._note, limit, may_be_silent)
        with self._changing:
            self._histories.setdefault(kind, _History())
            self._loops = [*self._loops, loop]
        return loop

    def release(self, loop: Loop) -> None:
        """Watch over a loop no more: it ends, as it should."""
        with self._changing:
            self._loops = [other for other in self._loops if other is not loop]

    def beat(self) -> None:
        """Say that the current thread, where it is a loop, has done a piece of its work."""
        for loop in self._here():
            loop.beat()

    def live(self) -> None:
        """Say that the current thread is at work, where it is a loop."""
        for loop in self._here():
            loop.live()

    def note(self, error: BaseException) -> None:
        """Count an error of the current thread, where it is a loop; it goes on."""
        for loop in self._here():
            loop.note(error)

    def fail(self, error: BaseException) -> None:
        """Note an error for which the current thread, where it is a loop, has to do something again."""
        for loop in self._here():
            loop.fail(error)

    def _here(self) -> list[Loop]:
        here = threading.current_thread()
        return [loop for loop in self._loops if loop.thread is here]

    @property
    def loops(self) -> list[Loop]:
        """Those that run now."""
        return self._loops

    def infos(self) -> tuple[ThreadInfo, ...]:
        """Return what is known of each kind of thread, by name; of several of a kind, of the one that beat first."""
        wall, now, loops = CLOCK.now(), time.monotonic(), self._loops
        with self._changing:
            kinds = sorted(self._histories.items())
        infos = []
        for kind, history in kinds:
            alive = [loop for loop in loops if loop.kind == kind]
            infos.append(
                ThreadInfo(
                    name=kind,
                    beat_at=wall - now + min(loop.beat_at for loop in alive) if alive else None,
                    errors=history.errors,
                    error=history.last,
                    error_at=history.at,
                    failing=any(loop.failing or not loop.thread.is_alive() for loop in alive),
                )
            )
        return tuple(infos)

    def _note(self, loop: Loop, error: BaseException) -> None:
        away = is_outage(error)
        if away and loop.kind in OF_ATTEMPTS:
            self.refused_at = time.monotonic()
        kind = error_code(error)
        with self._changing:
            history = self._histories[loop.kind]
            history.errors += 1
            history.last, history.at = brief(error), CLOCK.now()
            is_news = time.monotonic() - history.told_at.get(kind, -math.inf) >= TELL_EVERY
            if is_news:
                history.told_at[kind] = time.monotonic()
        self.on_error(loop.kind, kind)
        if is_news and away:
            log.warning("thread %s: the broker is away, or refuses for now: %s; trying again", loop.kind, brief(error))
        elif is_news:
            log.error("thread %s: %s; trying again", loop.kind, brief(error), exc_info=error)


def join(thread: threading.Thread) -> None:
    """Wait for the end of a thread, if it was started; the current one is at work meanwhile."""
    while thread.is_alive():
        thread.join(LIVE_EVERY)
        THREADS.live()


def acquire(lock: threading.Lock | threading.Semaphore) -> None:
    """Wait for a lock; the current thread is at work meanwhile."""
    while not lock.acquire(timeout=LIVE_EVERY):
        THREADS.live()


def is_exhausted(error: BaseException) -> bool:
    """Return whether this process or machine has no descriptors or memory left, whatever was being done."""
    return any(isinstance(one, OSError) and one.errno in EXHAUSTED for one in causes(error))


def brief(error: BaseException) -> str:
    """Return an error in a few words."""
    words = "".join(character if character.isprintable() else " " for character in str(error)[:LONGEST_ERROR])
    return f"{type(error).__name__}: {words}"[:LONGEST_ERROR]


THREADS = Threads()
"""Of this process."""
