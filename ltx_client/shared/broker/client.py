"""Connections to the broker, whatever its URL says: the one place that makes them, for the ledger and for Celery.

`LIMITS` says for each purpose how long a connection waits, and why. What the broker's URL says itself, such as
`?socket_timeout=20`, goes before that.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry
from redis.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from ltx_client.shared.broker.url import Broker

if TYPE_CHECKING:
    import redis.asyncio

__all__ = ["LIMITS", "Limits", "Purpose", "connection_class", "make_async_client", "make_client", "make_pool"]

OF_TCP = ("socket_connect_timeout", "socket_keepalive", "socket_keepalive_options")
"""Options that a connection to a unix socket does not take."""


class Purpose(Enum):
    """What a connection to the broker is for."""

    COMMAND = "command"
    EMBEDDED = "embedded"
    SENTINEL = "sentinel"
    WORKER_START = "worker's start"
    WORKER = "worker's ledger"
    WORKER_ASIDE = "worker, aside"
    WORKER_DOCTOR = "worker's doctor"
    CELERY = "Celery"
    LOAD = "load"


@dataclass(frozen=True)
class Limits:
    """How long a connection waits, and how often it tries.

    Attributes:
        connect_within: Seconds in which a connection must be there.
        answer_within: Seconds in which each command must be answered; a command that blocks must block for less.
        why: The reason for both, in a sentence.
        retries: How often a command is sent again at once after an outage, at most a second apart.
        check_every: Seconds unused after which a connection is checked with a ping before its next use; 0 for never.
        protocol: RESP's version; None for the library's own choice.
    """

    connect_within: float
    answer_within: float
    why: str
    retries: int = 0
    check_every: int = 0
    protocol: int | None = None


LIMITS = {
    Purpose.COMMAND: Limits(
        3,
        3,
        "A person waits, and is told of a dead broker within five seconds. Who follows a job, by a command or from"
        " Python, uses the same connection and waits a second at a time.",
        protocol=2,
    ),
    Purpose.EMBEDDED: Limits(
        5,
        5,
        "The server is on this machine, so it is there or it is not; it may be reading its log or syncing to a disk.",
    ),
    Purpose.SENTINEL: Limits(
        1,
        1,
        "There are other sentinels to ask.",
        protocol=2,
    ),
    Purpose.WORKER_START: Limits(
        3,
        3,
        "A worker asks once whether it may use this broker; one that does not answer may be about to start.",
    ),
    Purpose.WORKER: Limits(
        3,
        10,
        "A render must not be lost for a slow answer or a broker's restart: short outages are ridden out here, longer"
        " ones by `ltx_worker.threads.retrying`.",
        retries=3,
        check_every=10,
    ),
    Purpose.WORKER_ASIDE: Limits(
        2,
        2,
        "The answer only saves work (the cache of embeddings), or somebody waits for another one (metrics).",
        check_every=10,
    ),
    Purpose.WORKER_DOCTOR: Limits(
        3,
        4,
        "A person waits, for the checks of a server that may be slow, and wants to see the first failure.",
    ),
    Purpose.CELERY: Limits(
        3,
        15,
        "kombu blocks for a second at a time. A slow answer is waited for: with a lost connection it begins anew, and"
        " gives back the messages that it holds.",
        check_every=10,
    ),
    Purpose.LOAD: Limits(
        5,
        5,
        "A measurement is to show a broker that gives way, and not to wait for it.",
    ),
}
"""For each purpose its limits."""

_CLASSES: dict[tuple[str, bool], Any] = {
    ("tcp", False): redis.Connection,
    ("tcp", True): redis.SSLConnection,
    ("unix", False): redis.UnixDomainSocketConnection,
    ("sentinel", False): SentinelManagedConnection,
    ("sentinel", True): SentinelManagedSSLConnection,
}


def connection_class(broker: Broker) -> Any:
    """Return the class of redis-py's connections to a broker."""
    return _CLASSES[broker.kind, broker.tls]


def make_client(broker: Broker, purpose: Purpose) -> redis.Redis:
    """Return a client that is not connected yet."""
    return redis.Redis.from_pool(make_pool(broker, purpose))


def make_pool(broker: Broker, purpose: Purpose, **options: Any) -> redis.ConnectionPool:
    """Return a pool of connections.

    Args:
        broker: Where the connections lead, and how; its options go before those of the purpose.
        purpose: What they are for.
        options: The pool's own, such as `max_connections`, or another `connection_class`.
    """
    retry = Retry(ExponentialBackoff(cap=1, base=0.1), LIMITS[purpose].retries)
    options = {"connection_class": connection_class(broker), "retry": retry, **options, **_options(broker, purpose)}
    if broker.kind != "sentinel":
        return redis.ConnectionPool(**_place(broker, options))
    retry = Retry(ExponentialBackoff(cap=1, base=0.1), LIMITS[Purpose.SENTINEL].retries)
    sentinels = Sentinel(broker.hosts, sentinel_kwargs=_sentinel_options(broker, retry))
    return SentinelConnectionPool(broker.primary, sentinels, **options)


def make_async_client(broker: Broker, purpose: Purpose, *, max_connections: int | None = None) -> redis.asyncio.Redis:
    """Return a client of asyncio's that is not connected yet, and closes its pool with itself.

    Args:
        broker: As for `make_pool`.
        purpose: As for `make_pool`.
        max_connections: How many connections there are at once, at most; None for as many as are asked for.
    """
    import redis.asyncio as redis_asyncio  # commands need none of it, and it takes a while
    from redis.asyncio import sentinel
    from redis.asyncio.retry import Retry as AsyncRetry

    classes: dict[tuple[str, bool], Any] = {
        ("tcp", False): redis_asyncio.Connection,
        ("tcp", True): redis_asyncio.SSLConnection,
        ("unix", False): redis_asyncio.UnixDomainSocketConnection,
        ("sentinel", False): sentinel.SentinelManagedConnection,
        ("sentinel", True): sentinel.SentinelManagedSSLConnection,
    }
    options = {
        "connection_class": classes[broker.kind, broker.tls],
        "retry": AsyncRetry(ExponentialBackoff(cap=1, base=0.1), LIMITS[purpose].retries),
        "max_connections": max_connections,
        **_options(broker, purpose),
    }
    if broker.kind != "sentinel":
        return redis_asyncio.Redis.from_pool(redis_asyncio.ConnectionPool(**_place(broker, options)))

    class SentinelPool(sentinel.SentinelConnectionPool):
        """Closes the connections to the sentinels with itself, which redis-py leaves open."""

        async def aclose(self) -> None:
            await super().aclose()
            for client in self.sentinel_manager.sentinels:
                await client.aclose()

    retry = AsyncRetry(ExponentialBackoff(cap=1, base=0.1), LIMITS[Purpose.SENTINEL].retries)
    sentinels = sentinel.Sentinel(broker.hosts, sentinel_kwargs=_sentinel_options(broker, retry))
    return redis_asyncio.Redis.from_pool(SentinelPool(broker.primary, sentinels, **options))  # type: ignore[no-untyped-call]


def _options(broker: Broker, purpose: Purpose) -> dict[str, Any]:
    """Return a connection's options: the purpose's, over which those of the broker's URL go."""
    limits = LIMITS[purpose]
    return {
        "socket_connect_timeout": limits.connect_within,
        "socket_timeout": limits.answer_within,
        "socket_keepalive": True,
        "health_check_interval": limits.check_every,
        **({} if limits.protocol is None else {"protocol": limits.protocol}),
        **broker.given("socket_"),
        **broker.given("health_"),
        **broker.given("ssl_"),
        "db": broker.database,
        "username": broker.username or None,
        "password": broker.password or None,
    }


def _place(broker: Broker, options: dict[str, Any]) -> dict[str, Any]:
    """Return a connection's options with where one leads that goes to the broker itself."""
    if broker.kind == "unix":
        return {"path": broker.path, **{name: value for name, value in options.items() if name not in OF_TCP}}
    host, port = broker.hosts[0]
    return {"host": host, "port": port, **options}


def _sentinel_options(broker: Broker, retry: Any) -> dict[str, Any]:
    """Return the options of a connection to a sentinel."""
    limits = LIMITS[Purpose.SENTINEL]
    return {
        "username": broker.option("sentinel_username"),
        "password": broker.option("sentinel_password"),
        "socket_connect_timeout": limits.connect_within,
        "socket_timeout": limits.answer_within,
        "protocol": limits.protocol,
        "retry": retry,
        "ssl": broker.tls,
        **broker.given("ssl_"),
    }
