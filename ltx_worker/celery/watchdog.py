"""Notices a consumer that has gone deaf: messages lie in the worker's queues, and it takes none (celery#8030)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import redis

from ltx_worker.threads.background import Background
from ltx_worker.threads.watched import LIMIT

__all__ = ["Watchdog"]

log = logging.getLogger(__name__)

LOOKS = 6
"""In each limit, so many."""


class Watchdog(Background):
    """Run a thread that notices messages which an idle worker does not take.

    It calls `rebuild` for a message that is in `queue_keys` for `limit` seconds while the worker is idle, and `give_up`
    when it is still there after as many seconds again.

    Attributes:
        taken: Returns how many messages the worker has taken, or None while it renders or must not take any.
    """

    def __init__(
        self,
        client: redis.Redis,
        queue_keys: Sequence[str],
        *,
        taken: Callable[[], int | None],
        rebuild: Callable[[], object],
        give_up: Callable[[], object],
        limit: float,
    ) -> None:
        super().__init__("watchdog", limit=LIMIT + limit)
        self._client = client
        self._keys = queue_keys
        self._taken = taken
        self._rebuild = rebuild
        self._give_up = give_up
        self._limit = limit
        self._idle_with: int | None = None
        self._since = 0.0
        self._rebuilt = False

    def _cycle(self) -> None:
        if self._stopped.wait(self._limit / LOOKS):
            return
        try:
            self._look()
        except BaseException:  # whatever it is: the look is lost, and what it was to be compared with is old
            self._idle_with = None
            raise

    def _look(self) -> None:
        taken, now = self._taken(), time.monotonic()
        if taken is None or taken != self._idle_with or not self._client.exists(*self._keys):
            self._rebuilt = self._rebuilt and taken is not None and taken == self._idle_with
            self._idle_with, self._since = taken, now
        elif now - self._since < self._limit:
            return
        elif self._rebuilt:
            log.critical("messages still lie in the queues, and none comes in; the worker ends, to be started again")
            self._give_up()
        else:
            log.error("messages have lain in the queues for %g s, and none came in; connecting anew", self._limit)
            self._rebuilt, self._since = True, now
            self._rebuild()
