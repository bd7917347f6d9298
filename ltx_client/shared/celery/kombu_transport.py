"""Give kombu's Redis transport our own connections, so that Celery reaches any broker that the ledger reaches.

kombu imports this module by name when a message is sent or received, since importing it is slow.
"""

from __future__ import annotations

from typing import Any

import redis
from kombu.transport import redis as kombu_redis

from ltx_client.shared.broker.client import Purpose, connection_class, make_pool
from ltx_client.shared.broker.url import Broker

__all__ = ["Channel", "Transport"]


class Channel(kombu_redis.Channel):
    """A channel over our own connections.

    Attributes:
        broker: The transport option that says where the broker is; what kombu parses from a URL is not used.
    """

    broker: Broker
    from_transport_options: Any = (*kombu_redis.Channel.from_transport_options, "broker")

    def _get_pool(self, asynchronous: bool = False) -> redis.ConnectionPool:
        """Return a pool; `asynchronous` selects connections on which the transport's loop waits."""
        kind: Any = connection_class(self.broker)
        self.keyprefix_fanout = self.keyprefix_fanout.format(db=self.broker.database)
        return make_pool(
            self.broker,
            Purpose.CELERY,
            connection_class=_watched(kind, self) if asynchronous else kind,
            max_connections=self.max_connections,
        )


def _watched(kind: Any, channel: Any) -> type:
    """Return a connection class that tells the transport's loop when a connection closes, as kombu's own does."""

    class Connection(kind):  # type: ignore[misc]
        def disconnect(self, *args: Any, **kwargs: Any) -> None:
            super().disconnect(*args, **kwargs)
            if channel._registered:
                channel._on_connection_disconnect(self)

    return Connection


class Transport(kombu_redis.Transport):
    """A transport that takes the option `broker` in place of a URL."""

    Channel = Channel
    can_parse_url = True

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:  # noqa: ARG002
        """Return the broker's address, for a log."""
        connection: Any = self.client
        broker: Broker = connection.transport_options["broker"]
        return broker.address
