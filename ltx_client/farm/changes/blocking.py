"""Follow the farm's changes with a thread that waits."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator
from typing import Any

import redis

from ltx_client.farm.changes.feed import BLOCK, Feed, Heard, ReadAgain, Silence

__all__ = ["follow"]


def follow(client: redis.Redis, feed: Feed) -> Generator[Heard]:
    """Yield what is heard, over a connection of its own. An outage is ridden out for a minute."""
    answered_at, has_begun = time.monotonic(), False
    while True:
        feed.check()
        with feed.errors():
            try:
                with contextlib.closing(client.pubsub()) as subscription:
                    for message in _messages(subscription, feed):
                        heard = feed.read(message)
                        has_begun |= isinstance(heard, ReadAgain)
                        if heard is not None and has_begun:
                            yield heard
                        answered_at = time.monotonic()
            except redis.RedisError as error:
                if not feed.may_return(error, time.monotonic() - answered_at):
                    raise
            except (OSError, ValueError):  # of a socket that another thread has closed, with the farm
                feed.check()
                raise
        time.sleep(BLOCK)


def _messages(subscription: Any, feed: Feed) -> Generator[dict[str, Any]]:
    subscription.subscribe(feed.channel)
    if feed.pattern is not None:
        subscription.psubscribe(feed.pattern)
    silence = Silence(time.monotonic())
    while True:
        message = subscription.get_message(timeout=BLOCK)
        if message is not None:
            yield message
            silence.end(time.monotonic())
        elif silence.is_to_ask(time.monotonic()):
            subscription.ping()
        feed.check()
