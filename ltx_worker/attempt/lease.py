"""Keeps the leases of running attempts, and listens for cancels and pauses."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator

import redis

from ltx_client.protocol.names import Names
from ltx_client.shared.broker.outages import is_outage
from ltx_worker.ledger.ledger import Claim, Ledger, StaleAttempt, Verdict
from ltx_worker.threads.background import Background

__all__ = ["LeaseKeeper", "Leases"]

log = logging.getLogger(__name__)

LISTEN = 0.5
"""Seconds until a new attempt is listened for; its claim has just said whether its cancel was asked."""


class LeaseKeeper:
    """Hold what is asked of an attempt, as flags.

    The ledger's answers to a renewal or to the attempt's own writes set `cancelled`, `paused` and `stale`. `broken` is
    set when one of the attempt's own threads cannot continue.
    """

    def __init__(self, claim: Claim) -> None:
        self.cancelled = threading.Event()
        self.paused = threading.Event()
        self.stale = threading.Event()
        self.broken = threading.Event()
        self.why_broken = ""
        self.claim = claim
        self.renew_at = 0.0

    @property
    def is_to_stop(self) -> bool:
        """Whether the attempt's render is to end."""
        return self.cancelled.is_set() or self.paused.is_set() or self.stale.is_set() or self.broken.is_set()

    @property
    def is_wanted(self) -> bool:
        """Whether the attempt's video is wanted, as far as is known."""
        return not (self.cancelled.is_set() or self.stale.is_set())

    def heed(self, verdict: Verdict) -> None:
        """Take note of what a write answered."""
        if verdict is Verdict.CANCEL:
            self.cancelled.set()
        elif verdict is Verdict.PAUSE:
            self.paused.set()

    def give_up(self, why: str) -> None:
        """Have the attempt end, and its job go to another one."""
        self.why_broken = why
        self.broken.set()


class Leases(Background):
    """Run a thread that renews each lease every `renew_every` seconds, and at once after a cancel or pause."""

    def __init__(self, client: redis.Redis, names: Names, ledger: Ledger, renew_every: float) -> None:
        super().__init__("leases", longest_pause=min(1.0, renew_every))
        self._client = client
        self._names = names
        self._ledger = ledger
        self._renew_every = renew_every
        self._listen = min(LISTEN, renew_every)
        self._in_hand: dict[str, LeaseKeeper] = {}
        """By the channel of the job's cancel."""

    @contextlib.contextmanager
    def keep(self, keeper: LeaseKeeper) -> Iterator[LeaseKeeper]:
        """Have an attempt's lease renewed while inside."""
        channel = self._names.cancel(keeper.claim.job_id)
        self._in_hand = {**self._in_hand, channel: keeper}
        try:
            yield keeper
        finally:
            self._in_hand = {name: other for name, other in self._in_hand.items() if other is not keeper}

    def _cycle(self) -> None:
        with self._client.pubsub(ignore_subscribe_messages=True) as subscription:
            self._serve(subscription)

    def _serve(self, subscription: redis.client.PubSub) -> None:
        heard: set[str] = set()
        while not self._stopped.is_set():
            in_hand = self._in_hand
            if gone := heard - in_hand.keys():
                subscription.unsubscribe(*gone)
            if new := in_hand.keys() - heard:
                subscription.subscribe(*new)
                for channel in new:  # what was asked for since the claim, nobody has heard
                    in_hand[channel].renew_at = 0.0
            heard = set(in_hand)
            for keeper in in_hand.values():
                if time.monotonic() >= keeper.renew_at and not keeper.stale.is_set():
                    keeper.renew_at = time.monotonic() + self._renew_every
                    self._renew(keeper)
            self._wait_for_cancel(subscription, in_hand)
            self._beat()

    def _wait_for_cancel(self, subscription: redis.client.PubSub, in_hand: dict[str, LeaseKeeper]) -> None:
        if not in_hand:
            self._stopped.wait(self._listen)
        elif message := subscription.get_message(timeout=self._listen):
            keeper = in_hand.get(message["channel"].decode(errors="replace"))
            if keeper is not None:
                keeper.renew_at = 0.0

    def _renew(self, keeper: LeaseKeeper) -> None:
        try:
            keeper.heed(self._ledger.renew(keeper.claim))
        except StaleAttempt as error:
            if keeper in self._in_hand.values():  # else it has just ended
                log.warning("job %s: %s", keeper.claim.job_id, error)
            keeper.stale.set()
        except redis.RedisError as error:
            if is_outage(error):
                raise
            self._note(error)  # this one's keys are damaged; the others' leases are renewed
