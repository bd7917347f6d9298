"""The farm's cache of text embeddings: a prompt is encoded once, by whichever worker meets it first.

embeds:{hash}    an embedding, packed by `ltx_worker.engine.packing.embeddings`; it goes when nobody has read it
                 for a while
embeds           sorted set of the hashes by last use, for the reaper, which removes the oldest above the byte limit

Only ever a shortcut: whatever is wrong with Redis or with a value, the engine encodes the text itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import queue
import re
import threading
from typing import Any

import redis

from ltx_client.protocol.names import Names
from ltx_client.shared.lua.lua_script import RegisteredScript
from ltx_client.shared.unexpected_data import is_wrong_type
from ltx_worker.ledger.scripts import FIND_EMBEDDINGS, STORE_EMBEDDING
from ltx_worker.threads.background import Background
from ltx_worker.threads.watched import LIVE_EVERY, THREADS

__all__ = ["EmbeddingsCache", "EmbeddingsLimit"]

log = logging.getLogger(__name__)

MAX_WAITING = 16
"""Renders whose embeddings wait to be stored, at most; further ones are not stored."""
STOP_TIMEOUT = 5.0
LARGEST = 64 * 10**6
"""Bytes of an embedding that is read; those of the largest text encoder have a tenth of them."""

_HASH = re.compile(rb"[0-9a-f]{64}")


class EmbeddingsCache(Background):
    """Finds at once, and stores from a thread of its own, which no render waits for.

    client: one that gives up soon.  ttl: seconds without use after which an embedding goes.
    """

    def __init__(self, client: redis.Redis, names: Names, ttl: int) -> None:
        super().__init__("embeddings")
        self._names = names
        self._ttl = ttl
        self._find = RegisteredScript(client, FIND_EMBEDDINGS)
        self._store = RegisteredScript(client, STORE_EMBEDDING)
        self._waiting: queue.Queue[tuple[str, dict[str, bytes]] | None] = queue.Queue(MAX_WAITING)
        self._leaving = threading.Event()

    def stop(self) -> None:
        """Stores what waits, if Redis is there."""
        self._leaving.set()
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
        if self._thread.is_alive():
            self._thread.join(STOP_TIMEOUT)

    def find(self, maker: str, texts: list[str]) -> dict[str, bytes]:
        """Those of the texts' embeddings that are there, made by `maker`; none while Redis is away."""
        names = self._names
        hashes = [_hash(maker, text) for text in texts]
        values = [names.embedding(name) for name in hashes]
        try:
            found: Any = self._find(
                index=names.embeddings(), values=values, ttl=self._ttl, largest=LARGEST, members=hashes
            )
        except redis.RedisError as error:
            THREADS.note(error)
            log.debug("the cache of text embeddings is out of reach: %s", error)
            return {}
        return {text: value for text, value in zip(texts, found, strict=True) if value}

    def offer(self, maker: str, embeddings: dict[str, bytes]) -> None:
        """Has what `maker` made of these texts stored soon. Never waits."""
        try:
            self._waiting.put_nowait((maker, embeddings))
        except queue.Full:
            log.warning("text embeddings are not stored: others still wait for that")

    def _cycle(self) -> None:
        try:
            item = self._waiting.get(timeout=LIVE_EVERY)
        except queue.Empty:
            item = None if self._leaving.is_set() else ("", {})
        if item is None:
            self._stopped.set()
            return
        maker, embeddings = item
        for text, value in embeddings.items():
            name = _hash(maker, text)
            index, key = self._names.embeddings(), self._names.embedding(name)
            try:
                self._store(index=index, key=key, ttl=self._ttl, member=name, value=value)
            except redis.RedisError as error:  # no harm: the text is encoded again
                self._note(error)
                if self._leaving.is_set():
                    self._stopped.set()
                    return
        if self._leaving.is_set() and self._waiting.empty():
            self._stopped.set()


class EmbeddingsLimit:
    """Removes the embeddings that were not used for the longest time while all together have more than `limit` bytes.

    Remembers what it has seen, and so reads only what was used since the last time.
    """

    def __init__(self, client: redis.Redis, names: Names, ttl: int, limit: int) -> None:
        self._client = client
        self._names = names
        self._ttl = ttl
        self._limit = limit
        self._sizes: dict[str, int] = {}
        """By hash, the one that was used last at the end."""
        self._last = 0.0

    def keep(self) -> None:
        """Trims once. Raises redis.RedisError."""
        self._read()
        if self._client.zcard(self._names.embeddings()) != len(self._sizes):  # another reaper trimmed
            self._sizes.clear()
            self._last = 0.0
            self._read()
        self._remove(self._oldest_above_limit())
        self._drop_expired()

    def _read(self) -> None:
        """What was used since the last time, and how large it is."""
        index = self._names.embeddings()
        used: Any = self._client.zrange(index, self._last, "+inf", byscore=True, withscores=True)
        if strange := [name for name, _ in used if not _HASH.fullmatch(name)]:  # whoever has put them there
            self._client.zrem(index, *strange)
        hashes = [name.decode() for name, _ in used if name not in strange]
        with self._client.pipeline(transaction=False) as pipeline:
            for name in hashes:
                pipeline.strlen(self._names.embedding(name))
            for name, size in zip(hashes, pipeline.execute(raise_on_error=False), strict=True):
                if isinstance(size, Exception) and not is_wrong_type(size):
                    raise size
                self._sizes.pop(name, None)
                self._sizes[name] = 0 if isinstance(size, Exception) else size
        if used:
            self._last = used[-1][1]

    def _oldest_above_limit(self) -> list[str]:
        total, gone = sum(self._sizes.values()), []
        for name, size in self._sizes.items():
            if total <= self._limit:
                break
            total -= size
            gone.append(name)
        return gone

    def _remove(self, hashes: list[str]) -> None:
        if not hashes:
            return
        with self._client.pipeline(transaction=False) as pipeline:
            pipeline.delete(*(self._names.embedding(name) for name in hashes))
            pipeline.zrem(self._names.embeddings(), *hashes)
            pipeline.execute()
        for name in hashes:
            del self._sizes[name]

    def _drop_expired(self) -> None:
        """Those whose time ran out stand at the beginning of the index."""
        if not self._sizes:
            return
        seconds: Any = self._client.time()[0]
        gone: Any = self._client.zrange(self._names.embeddings(), "-inf", seconds - self._ttl, byscore=True)
        names = [name.decode(errors="replace") for name in gone]
        self._remove([name for name in names if name in self._sizes])


def _hash(maker: str, text: str) -> str:
    return hashlib.sha256(f"{maker}\n{text}".encode()).hexdigest()
