"""The connection to the farm's Redis, and its errors told as sentences."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import redis
from pydantic import SecretStr
from redis.backoff import NoBackoff
from redis.retry import Retry

from ltx_client.errors import BrokerUnreachable
from ltx_client.protocol.settings import broker_address

__all__ = ["broker_errors", "connect"]

CONNECT_TIMEOUT = 3.0
ANSWER_TIMEOUT = 4.0


@contextlib.contextmanager
def broker_errors(address: str) -> Iterator[None]:
    """Turns redis-py's errors into BrokerUnreachable, which names the address."""
    try:
        yield
    except redis.AuthenticationError:
        raise BrokerUnreachable(
            f"the broker at {address} refused the user name or password; check LTX_BROKER_URL"
        ) from None
    except redis.TimeoutError:
        raise BrokerUnreachable(f"the broker at {address} did not answer in time; is it up, and reachable?") from None
    except redis.ConnectionError as error:
        raise BrokerUnreachable(
            f"cannot reach the broker at {address} ({_reason(error)}); is it running, and is LTX_BROKER_URL right?"
        ) from None
    except redis.exceptions.NoPermissionError:
        raise BrokerUnreachable(
            f"the broker at {address} does not let this user do that; check its ACL and the user in LTX_BROKER_URL"
        ) from None


def connect(broker_url: SecretStr) -> redis.Redis:
    """A client that answers, or BrokerUnreachable within five seconds."""
    client = redis.Redis.from_url(
        broker_url.get_secret_value(),
        socket_connect_timeout=CONNECT_TIMEOUT,
        socket_timeout=ANSWER_TIMEOUT,
        socket_keepalive=True,
        protocol=2,
        retry=Retry(NoBackoff(), 0),
    )
    with broker_errors(broker_address(broker_url)):
        client.ping()
    return client


def _reason(error: redis.ConnectionError) -> str:
    """The operating system's words, without the address that redis-py repeats around them."""
    cause = error.__cause__ or error.__context__
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(error).rstrip(".")
