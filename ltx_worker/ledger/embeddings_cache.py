"""The farm's cache of text embeddings: a prompt is encoded once, by the first worker that needs it.

embeds:{hash}    an embedding, packed by `ltx_worker.engine.packing.embeddings`; it expires when nobody has read it
                 for a while
embeds           sorted set of the hashes by last use, for the reaper, which removes the oldest above the byte limit

The cache is optional: if Redis does not answer or a value is invalid, the engine encodes the text itself.
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

MAX_PENDING = 16
"""The most renders whose embeddings wait to be stored; those of further ones are not stored."""
STOP_TIMEOUT = 5.0
LARGEST = 64 * 10**6
"""The most bytes of an embedding that is read, ten times those of the largest text encoder."""

_HASH = re.compile(rb"[0-9a-f]{64}")


class EmbeddingsCache(Background):
    """A thread that stores embeddings, so that no render waits for it; finding them needs no thread.

    Args:
        client: of the broker, with short time-outs.
        names: of the farm's keys.
        ttl: seconds without use after which an embedding expires.
    """

    def __init__(self, client: redis.Redis, names: Names, ttl: int) -> None:
        super().__init__("embeddings")
        self._names = names
        self._ttl = ttl
        self._find = RegisteredScript(client, FIND_EMBEDDINGS)
        self._store = RegisteredScript(client, STORE_EMBEDDING)
        self._pending: queue.Queue[tuple[str, dict[str, bytes]] | None] = queue.Queue(MAX_PENDING)
        self._leaving = threading.Event()

    def stop(self) -> None:
        """Store what is pending, if Redis answers, and end the thread."""
        self._leaving.set()
        with contextlib.suppress(queue.Full):
            self._pending.put_nowait(None)
        if self._thread.is_alive():
            self._thread.join(STOP_TIMEOUT)

    def find(self, maker: str, texts: list[str]) -> dict[str, bytes]:
        """Return the cached embeddings of texts, made by `maker`, by text; none while Redis does not answer."""
        names = self._names
        hashes = [_hash(maker, text) for text in texts]
        values = [names.embedding(name) for name in hashes]
        try:
            found: Any = self._find(
                index=names.embeddings(), values=values, ttl=self._ttl, largest=LARGEST, members=hashes
            )
        except redis.RedisError as error:
            THREADS.note(error)
            log.debug("cannot read the embeddings cache: %s", error)
            return {}
        return {text: value for text, value in zip(texts, found, strict=True) if value}

    def offer(self, maker: str, embeddings: dict[str, bytes]) -> None:
        """Queue embeddings that `maker` made, by text, to be stored; never wait."""
        try:
            self._pending.put_nowait((maker, embeddings))
        except queue.Full:
            log.warning("text embeddings are not stored: %d renders' are pending already", MAX_PENDING)

    def _cycle(self) -> None:
        try:
            item = self._pending.get(timeout=LIVE_EVERY)
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
        if self._leaving.is_set() and self._pending.empty():
            self._stopped.set()


class EmbeddingsLimit:
    """Removes the least recently used embeddings while all together have more than `limit` bytes.

    It remembers the sizes that it has read, so that it reads only those of embeddings that were used since.

    Args:
        client: of the broker.
        names: of the farm's keys.
        ttl: seconds without use after which an embedding expires.
        limit: bytes.
    """

    def __init__(self, client: redis.Redis, names: Names, ttl: int, limit: int) -> None:
        self._client = client
        self._names = names
        self._ttl = ttl
        self._limit = limit
        self._sizes: dict[str, int] = {}
        """By hash; the most recently used one is the last."""
        self._last = 0.0

    def trim(self) -> None:
        """Remove what is over the limit, and what has expired.

        Raises:
            redis.RedisError: the broker does not answer, or refuses.
        """
        self._read()
        if self._client.zcard(self._names.embeddings()) != len(self._sizes):  # another reaper trimmed
            self._sizes.clear()
            self._last = 0.0
            self._read()
        self._remove(self._oldest_above_limit())
        self._drop_expired()

    def _read(self) -> None:
        """Read which embeddings were used since the last time, and their sizes."""
        index = self._names.embeddings()
        used: Any = self._client.zrange(index, self._last, "+inf", byscore=True, withscores=True)
        if strange := [name for name, _ in used if not _HASH.fullmatch(name)]:  # another program may write there
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
        """Remove expired embeddings, which are the first of the index."""
        if not self._sizes:
            return
        seconds: Any = self._client.time()[0]
        gone: Any = self._client.zrange(self._names.embeddings(), "-inf", seconds - self._ttl, byscore=True)
        names = [name.decode(errors="replace") for name in gone]
        self._remove([name for name in names if name in self._sizes])


def _hash(maker: str, text: str) -> str:
    return hashlib.sha256(f"{maker}\n{text}".encode()).hexdigest()
