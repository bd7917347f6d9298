"""Publishes an attempt's events while it renders: in order, each until Redis took it. Redis may go and come back."""

from __future__ import annotations

import logging
import queue
import threading
from types import TracebackType

from ltx_client.protocol.events import Event
from ltx_worker.attempt.lease import LeaseKeeper
from ltx_worker.ledger.ledger import Ledger, StaleAttempt
from ltx_worker.threads.background import watched
from ltx_worker.threads.retrying import until_redis_answers
from ltx_worker.threads.watched import LIVE_EVERY, Loop, brief, join

__all__ = ["EventPublisher"]

log = logging.getLogger(__name__)

AT_ONCE = 32
"""Events of one round trip, at most: a server that was away meanwhile must not be held up."""


class EventPublisher:
    """Publish an attempt's events from a thread, as a context manager.

    On leaving it, all events have been published, or the attempt is over, or `leaving` is set and Redis is away.
    """

    def __init__(self, ledger: Ledger, keeper: LeaseKeeper, leaving: threading.Event) -> None:
        self._ledger = ledger
        self._claim = keeper.claim
        self._keeper = keeper
        self._leaving = leaving
        self._events: queue.SimpleQueue[tuple[Event, bytes] | None] = queue.SimpleQueue()
        self._ended = False
        self._thread = watched(self._run, "events", name=f"events-{self._claim.job_id}")

    def __enter__(self) -> EventPublisher:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()

    def finish(self) -> None:
        """Return when all that was put has been published, or will not be."""
        self._events.put(None)
        join(self._thread)

    def put(self, event: Event, preview: bytes = b"") -> None:
        """Have the event published after those before it. Never wait."""
        self._events.put((event, preview))

    def _next(self, loop: Loop) -> list[tuple[Event, bytes]]:
        """Return what has happened since, once something has; nothing at the end."""
        news: list[tuple[Event, bytes]] = []
        while not self._ended and (not news or not self._events.empty()) and len(news) < AT_ONCE:
            try:
                item = self._events.get(timeout=LIVE_EVERY)
            except queue.Empty:
                loop.live()
                continue
            if item is None:
                self._ended = True
            else:
                news.append(item)
        return news

    def _run(self, loop: Loop) -> None:
        while news := self._next(loop):
            try:
                retrying = until_redis_answers(self._leaving)
                self._keeper.heed(retrying(self._ledger.emit_all, self._claim, news))
            except StaleAttempt as error:
                log.warning("job %s: %s", self._claim.job_id, error)
                self._keeper.stale.set()
                return
            except BaseException as error:  # noqa: BLE001 - the attempt must end, rather than go on unheard
                loop.note(error)
                if not self._leaving.is_set():
                    self._keeper.give_up(f"its events cannot be published: {brief(error)}")
                log.warning("job %s: left with events unpublished: %s", self._claim.job_id, brief(error))
                return
            loop.beat()
