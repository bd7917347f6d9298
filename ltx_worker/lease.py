"""Keeps an attempt's lease while its render runs, and listens for a cancel."""

from __future__ import annotations

import logging
import threading
from types import TracebackType

import redis

from ltx_client.protocol.names import Names
from ltx_worker.ledger import Attempt, Ledger, StaleAttempt, Verdict
from ltx_worker.patience import AWAY

__all__ = ["LeaseKeeper"]

log = logging.getLogger(__name__)

LISTEN = 0.5
"""Seconds that one wait for a cancel takes, and so the longest that leaving takes."""


class LeaseKeeper:
    """A context manager: renews every `renew_every` seconds, at once when the job's cancel is published.

    `cancelled` and `stale` are set by what the ledger answers, by this thread or by the owner's own writes.
    """

    def __init__(self, client: redis.Redis, names: Names, ledger: Ledger, attempt: Attempt, renew_every: float) -> None:
        self.cancelled = threading.Event()
        self.stale = threading.Event()
        self._client = client
        self._channel = names.cancel(attempt.job_id)
        self._ledger = ledger
        self._attempt = attempt
        self._renew_every = renew_every
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lease-{attempt.job_id}", daemon=True)

    def __enter__(self) -> LeaseKeeper:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        self._thread.join()

    def heed(self, verdict: Verdict) -> None:
        """Takes note of what a write answered."""
        if verdict is Verdict.CANCEL:
            self.cancelled.set()

    def _run(self) -> None:
        while not self._left.is_set() and not self.stale.is_set():
            try:
                self._listen()
            except AWAY as error:
                log.warning("job %s: the broker is away (%s); the render goes on", self._attempt.job_id, error)
                self._left.wait(1.0)

    def _listen(self) -> None:
        with self._client.pubsub(ignore_subscribe_messages=True) as subscription:
            subscription.subscribe(self._channel)
            while not self._left.is_set():
                self._renew()
                if self.stale.is_set():
                    return
                self._wait_for_cancel(subscription)

    def _wait_for_cancel(self, subscription: redis.client.PubSub) -> None:
        for _ in range(max(1, round(self._renew_every / LISTEN))):
            if self._left.is_set() or subscription.get_message(timeout=min(LISTEN, self._renew_every)):
                return

    def _renew(self) -> None:
        try:
            self.heed(self._ledger.renew(self._attempt))
        except StaleAttempt as error:
            log.warning("job %s: %s", self._attempt.job_id, error)
            self.stale.set()
