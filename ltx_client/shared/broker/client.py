"""Make every connection to the broker, whatever its URL says, for the ledger and for Celery.

`LIMITS` gives for each purpose how long a connection waits, and why. Options of the broker's URL, such as
`?socket_timeout=20`, override them.
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
"""Options that a connection to a Unix socket does not take."""


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
    """How long a connection waits, and how often it retries.

    Attributes:
        connect_within: Seconds within which a connection must be made.
        answer_within: Seconds within which each command must be answered; a command that blocks must block for less.
        why: The reason for both, in a sentence.
        retries: How often a command is sent again at once after an outage, at most a second apart.
        check_every: Seconds without use after which a connection is checked with a ping before its next use; 0 for
            never.
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
        "A person waits, and must hear of a dead broker within five seconds. Commands and programs that follow a job"
        " use the same connection and wait for a second at a time.",
        protocol=2,
    ),
    Purpose.EMBEDDED: Limits(
        5,
        5,
        "The server is on this machine, so no network can be slow; it may be reading its log or syncing to a disk.",
    ),
    Purpose.SENTINEL: Limits(
        1,
        1,
        "Other sentinels can be asked.",
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
        "A render must not be lost for a slow answer or a broker's restart: short outages are retried here, longer"
        " ones by `ltx_worker.threads.retrying`.",
        retries=3,
        check_every=10,
    ),
    Purpose.WORKER_ASIDE: Limits(
        2,
        2,
        "The answer only saves work (the cache of embeddings), or somebody waits for an answer of ours (metrics).",
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
        "kombu blocks for a second at a time. It waits for a slow answer: after a lost connection it would start again,"
        " and requeue its messages.",
        check_every=10,
    ),
    Purpose.LOAD: Limits(
        5,
        5,
        "A measurement must show a broker that breaks down, not wait for it.",
    ),
}
"""The limits of each purpose."""

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
        broker: Where the connections lead; its options override those of the purpose.
        purpose: What the connections are for.
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
    """Return an asyncio client that is not connected yet, and closes its pool when it is closed.

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
    """Return a connection's options: the purpose's, overridden by those of the broker's URL."""
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
