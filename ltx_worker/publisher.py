"""Publishes an attempt's events beside the render: in order, each until Redis took it. Redis may go and come back."""

from __future__ import annotations

import logging
import queue
import threading
from types import TracebackType

from ltx_client.protocol.events import Event
from ltx_worker.lease import LeaseKeeper
from ltx_worker.ledger import Attempt, Ledger, StaleAttempt
from ltx_worker.patience import AWAY, until_redis_answers

__all__ = ["EventPublisher"]

log = logging.getLogger(__name__)

AT_ONCE = 32
"""Events of one round trip, at most: a server that was away meanwhile must not be held up."""


class EventPublisher:
    """A context manager; on leaving, all that was put has been published, or the attempt is over, or `leaving` is set
    and Redis is away.
    """

    def __init__(self, ledger: Ledger, attempt: Attempt, keeper: LeaseKeeper, leaving: threading.Event) -> None:
        self._ledger = ledger
        self._attempt = attempt
        self._keeper = keeper
        self._leaving = leaving
        self._events: queue.SimpleQueue[tuple[Event, bytes] | None] = queue.SimpleQueue()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=f"events-{attempt.job_id}", daemon=True)

    def __enter__(self) -> EventPublisher:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()

    def finish(self) -> None:
        """Returns when all that was put has been published, or will not be."""
        self._events.put(None)
        self._thread.join()

    def put(self, event: Event, preview: bytes = b"") -> None:
        """Has the event published after those before it. Never waits."""
        self._events.put((event, preview))

    def _next(self) -> list[tuple[Event, bytes]]:
        """What has happened since, once something has; nothing at the end."""
        news: list[tuple[Event, bytes]] = []
        while not self._ended and (not news or not self._events.empty()) and len(news) < AT_ONCE:
            item = self._events.get()
            if item is None:
                self._ended = True
            else:
                news.append(item)
        return news

    def _run(self) -> None:
        while news := self._next():
            try:
                retrying = until_redis_answers(self._leaving)
                self._keeper.heed(retrying(self._ledger.emit_all, self._attempt, news))
            except StaleAttempt as error:
                log.warning("job %s: %s", self._attempt.job_id, error)
                self._keeper.stale.set()
                return
            except AWAY as error:
                log.warning("job %s: leaving with events unpublished: %s", self._attempt.job_id, error)
                return
