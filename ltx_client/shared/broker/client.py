"""Connections to the broker, whatever its URL says: the one place that makes them, for the ledger and for Celery."""

from __future__ import annotations

from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from ltx_client.shared.broker.url import Broker

__all__ = ["connection_class", "make_client", "make_pool"]

SENTINEL_TIMEOUT = 1.0
"""Seconds for which one sentinel is waited for: there are others."""
OF_TCP = ("socket_connect_timeout", "socket_keepalive", "socket_keepalive_options")
"""Options that a connection to a unix socket does not take."""
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


def make_client(broker: Broker, **options: Any) -> redis.Redis:
    """Return a client that is not connected yet. options: as `make_pool` takes them."""
    return redis.Redis.from_pool(make_pool(broker, **options))


def make_pool(broker: Broker, **options: Any) -> redis.ConnectionPool:
    """Return a pool of connections.  options: redis-py's, over which those of the broker's URL go."""
    options |= {**broker.given("socket_"), **broker.given("health_"), **broker.given("ssl_")}
    options |= {"db": broker.database, "username": broker.username or None, "password": broker.password or None}
    options.setdefault("connection_class", connection_class(broker))
    if broker.kind == "tcp":
        host, port = broker.hosts[0]
        return redis.ConnectionPool(host=host, port=port, **options)
    if broker.kind == "unix":
        return redis.ConnectionPool(path=broker.path, **{n: v for n, v in options.items() if n not in OF_TCP})
    return SentinelConnectionPool(broker.primary, _sentinel(broker), **options)


def _sentinel(broker: Broker) -> Sentinel:
    return Sentinel(
        broker.hosts,
        sentinel_kwargs={
            "username": broker.option("sentinel_username"),
            "password": broker.option("sentinel_password"),
            "socket_connect_timeout": SENTINEL_TIMEOUT,
            "socket_timeout": SENTINEL_TIMEOUT,
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            "ssl": broker.tls,
            **broker.given("ssl_"),
        },
    )
