"""Follow the farm's changes with an event loop: one connection, and a queue for each consumer."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

import redis

from ltx_client.errors import FarmError
from ltx_client.farm.changes.feed import BLOCK, Feed, Heard, ReadAgain, Silence

if TYPE_CHECKING:
    import redis.asyncio

__all__ = ["Hub"]

LONGEST = 10_000
"""Messages that wait for a slow consumer; it loses them for one that says to read again."""


class _Consumer:
    """The messages that one consumer has not taken yet, or the error that ended them."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Heard | BaseException] = asyncio.Queue()

    def put(self, heard: Heard | BaseException) -> None:
        if self._queue.qsize() >= LONGEST:
            while not self._queue.empty():
                self._queue.get_nowait()
            self._queue.put_nowait(ReadAgain())
        self._queue.put_nowait(heard)

    async def get(self) -> Heard:
        heard = await self._queue.get()
        if isinstance(heard, BaseException):
            raise heard
        return heard


class Hub:
    """One subscription for any number of consumers: it begins with the first, and ends with the last or an error.

    Attributes:
        is_over: Whether it has ended; then another one is needed.
    """

    def __init__(self, client: redis.asyncio.Redis, feed: Feed) -> None:
        self.is_over = False
        self._client = client
        self._feed = feed
        self._consumers: set[_Consumer] = set()
        self._is_subscribed = False
        self._task: asyncio.Task[None] | None = None

    async def follow(self) -> AsyncGenerator[Heard]:
        """Yield what is heard from now on. An outage is ridden out for a minute."""
        consumer = _Consumer()
        self._consumers.add(consumer)
        if self._is_subscribed:
            consumer.put(ReadAgain())
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        try:
            while not isinstance(heard := await consumer.get(), ReadAgain):
                continue  # what is heard while the subscription is being made
            while True:
                yield heard
                heard = await consumer.get()
        finally:
            self._consumers.discard(consumer)
            if not self._consumers:
                self.is_over = True
                self._task.cancel()
                await asyncio.wait([self._task])  # in which it closes its connection

    async def _run(self) -> None:
        try:
            await self._listen()
        except Exception as error:  # noqa: BLE001 - each consumer raises it
            self.is_over = True
            self._put(self._why_closed() or error)

    def _why_closed(self) -> FarmError | None:
        """Return what a consumer raises of a farm that was closed, whatever came of that where it was read."""
        try:
            self._feed.check()
        except FarmError as error:
            return error
        return None

    async def _listen(self) -> None:
        answered_at = time.monotonic()
        while True:
            self._feed.check()
            with self._feed.errors():
                try:
                    async with (
                        contextlib.aclosing(self._client.pubsub()) as subscription,
                        contextlib.aclosing(self._messages(subscription)) as messages,
                    ):
                        async for message in messages:
                            answered_at = time.monotonic()
                            if (heard := self._feed.read(message)) is not None:
                                self._is_subscribed |= isinstance(heard, ReadAgain)
                                self._put(heard)
                except redis.RedisError as error:
                    if not self._feed.may_return(error, time.monotonic() - answered_at):
                        raise
                finally:
                    self._is_subscribed = False
            await asyncio.sleep(BLOCK)

    async def _messages(self, subscription: Any) -> AsyncGenerator[dict[str, Any]]:
        await subscription.subscribe(self._feed.channel)
        if self._feed.pattern is not None:
            await subscription.psubscribe(self._feed.pattern)
        silence = Silence(time.monotonic())
        while True:
            message = await subscription.get_message(timeout=BLOCK)
            if message is not None:
                silence.end(time.monotonic())
                yield message
            elif silence.is_to_ask(time.monotonic()):
                await subscription.ping()
            self._feed.check()

    def _put(self, heard: Heard | BaseException) -> None:
        for consumer in self._consumers:
            consumer.put(heard)
