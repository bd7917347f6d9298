"""Connect to the farm's Redis, and turn its errors into sentences."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import redis
from pydantic import SecretStr

from ltx_client.errors import BrokerError, BrokerUnreachable
from ltx_client.protocol.redaction import hide_url_secrets
from ltx_client.shared.broker.client import Purpose, make_async_client, make_client
from ltx_client.shared.broker.connection_errors import why_unreachable, why_wrong
from ltx_client.shared.broker.exchange import run_async
from ltx_client.shared.broker.first_contact import greet, greeting
from ltx_client.shared.broker.outages import error_code, is_outage
from ltx_client.shared.broker.url import Broker

if TYPE_CHECKING:
    import redis.asyncio

__all__ = ["broker_errors", "connect", "connect_async", "operator_errors"]


@contextlib.contextmanager
def broker_errors(address: str) -> Iterator[None]:
    """Turn redis-py's errors into BrokerUnreachable where they mean "not now", else into BrokerError."""
    try:
        yield
    except redis.RedisError as error:
        if is_outage(error):
            raise BrokerUnreachable(why_unreachable(error, address)) from None
        raise BrokerError(why_wrong(error, address)) from None


@contextlib.contextmanager
def operator_errors(address: str) -> Iterator[None]:
    """Turn redis-py's errors into the client's, and a missing right into a sentence that names the farm's admin."""
    with broker_errors(address):
        try:
            yield
        except redis.ResponseError as error:
            if error_code(error) != "NOPERM":
                raise
            raise BrokerUnreachable(
                f"the broker at {address} lets only the farm's admin pause and resume workers and queues; name that"
                " user in LTX_BROKER_URL, or use a farm of the configuration that does (see deploy/README.md); if it is"
                " named, the broker's users.acl is of an older version: run deploy/users.sh, then ACL LOAD"
            ) from None


def connect(broker_url: SecretStr) -> redis.Redis:
    """Return a client that has answered.

    Raises:
        BrokerUnreachable: The broker did not answer within five seconds.
        BrokerError: The broker refused the connection.
    """
    hide_url_secrets(broker_url.get_secret_value())
    broker = Broker.parse(broker_url.get_secret_value())
    client = make_client(broker, Purpose.COMMAND)
    with broker_errors(broker.address):
        greet(client, broker)
    return client


async def connect_async(broker_url: SecretStr) -> redis.asyncio.Redis:
    """Return an asyncio client that has answered.

    Raises:
        BrokerUnreachable: The broker did not answer within five seconds.
        BrokerError: The broker refused the connection.
    """
    hide_url_secrets(broker_url.get_secret_value())
    broker = Broker.parse(broker_url.get_secret_value())
    client = make_async_client(broker, Purpose.COMMAND)
    try:
        with broker_errors(broker.address):
            await run_async(client, greeting(broker))
    except BaseException:  # also a cancel: nobody else has the client yet
        await client.aclose()
        raise
    return client
