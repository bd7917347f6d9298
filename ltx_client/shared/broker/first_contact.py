"""Send a broker its first command: what is wrong with the URL shows here, and the error says what would be right."""

from __future__ import annotations

import contextlib
import socket
import ssl

import redis
from redis.exceptions import NoPermissionError

from ltx_client.shared.broker.exchange import Command, Exchange, ask_all, block, run
from ltx_client.shared.broker.outages import is_without_primary
from ltx_client.shared.broker.url import Broker

__all__ = ["NotAsTheUrlSays", "greet", "greeting"]

PROBE_TIMEOUT = 1.0
ENOUGH = 64
"""Bytes of an answer that are enough to recognize the server."""


class NotAsTheUrlSays(redis.ConnectionError):
    """The server answers, but not as the URL says. The text follows "the broker at …"."""


def greet(client: redis.Redis, broker: Broker) -> None:
    """Return when the broker has answered; see `greeting`."""
    run(client, greeting(broker))


def greeting(broker: Broker) -> Exchange[None]:
    """Return when the broker has answered.

    Raises:
        NotAsTheUrlSays: Another URL would be right.
        redis.RedisError: The broker did not answer, or refused.
    """
    try:
        answered, told_time = yield from ask_all(
            [Command("ping"), Command("time")],
            raise_on_error=False,  # a sentinel does not know the latter
        )
        if isinstance(answered, redis.RedisError):
            raise answered
        if broker.kind != "sentinel" and "unknown command" in str(told_time).lower():
            raise NotAsTheUrlSays("is a sentinel, not a server; LTX_BROKER_URL must be sentinel://HOST:PORT/NAME")
    except NotAsTheUrlSays:
        raise
    except redis.RedisError as error:
        for why_not in (_why_no_database, _why_no_sentinel, _why_other_scheme):
            if why := (yield from block(why_not, error, broker)):
                raise NotAsTheUrlSays(why) from error
        raise


def _why_no_database(error: redis.RedisError, broker: Broker) -> str:
    text = str(error).lower()
    if isinstance(error, NoPermissionError) and ("select" in text or "database" in text):
        return (
            f"does not let this user choose database {broker.database}; name another one in LTX_BROKER_URL (0 needs no"
            " right of its own), or have its ACL grant +select"
        )
    if "db index is out of range" in text or "invalid db index" in text:
        return f"has no database {broker.database}; LTX_BROKER_URL must end with one that it has, such as /0"
    if "select is not allowed in cluster mode" in text:
        return f"is part of a cluster, which has no database {broker.database}, and the farm needs a server of its own"
    return ""


def _why_no_sentinel(error: redis.RedisError, broker: Broker) -> str:
    if broker.kind == "sentinel" and isinstance(error, redis.ResponseError) and "unknown command" in str(error).lower():
        return "is a server, not a sentinel; LTX_BROKER_URL must begin with redis://, or name the sentinels' ports"
    return ""


def _why_other_scheme(error: redis.RedisError, broker: Broker) -> str:
    """Ask the first host with the other scheme, after it did not answer with the URL's own."""
    lost = isinstance(error, redis.ConnectionError | redis.TimeoutError | redis.InvalidResponse)
    if not lost or isinstance(error, redis.AuthenticationError) or not broker.hosts:
        return ""
    if _is_refusal(error) or (is_without_primary(error) and not _are_silent(error)):
        return ""
    if broker.tls and _speaks_plainly(broker.hosts[0]):
        return f"does not speak TLS there; LTX_BROKER_URL must begin with {broker.other_scheme}://"
    if not broker.tls and _speaks_tls(broker.hosts[0]):
        return f"speaks TLS there; LTX_BROKER_URL must begin with {broker.other_scheme}://"
    return ""


def _are_silent(error: BaseException) -> bool:
    """Return whether no sentinel could be asked; redis-py's text contains the errors of all."""
    return " : " in str(error) and "AuthenticationError" not in str(error)


def _is_refusal(error: BaseException) -> bool:
    """Return whether nothing accepted the connection, so that there is nobody to ask."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
        if isinstance(error, ConnectionRefusedError | socket.gaierror | ssl.SSLCertVerificationError):
            return True
    return False


def _speaks_plainly(host: tuple[str, int]) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(host, timeout=PROBE_TIMEOUT) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(ENOUGH).startswith((b"+PONG", b"-NOAUTH", b"-NOPERM", b"-DENIED", b"-LOADING", b"-ERR"))
    return False


def _speaks_tls(host: tuple[str, int]) -> bool:
    anyone = ssl.create_default_context()
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE  # nothing secret is sent, and no answer is trusted
    with contextlib.suppress(OSError), socket.create_connection(host, timeout=PROBE_TIMEOUT) as connection:
        try:
            with anyone.wrap_socket(connection):
                return True
        except ssl.SSLError as error:
            return "WRONG_VERSION" not in str(error) and "ALERT" in str(error).upper()  # it wants a certificate
    return False
