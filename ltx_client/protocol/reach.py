"""Why a broker cannot be used, told in a sentence that names its address and what to check, never a password."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import redis

__all__ = ["why_refused", "why_unreachable"]


def why_refused(error: Exception, address: str) -> str | None:
    """The sentence, where the broker is there and trying again will not help; None for any other error."""
    if isinstance(error, redis.AuthenticationError):
        return f"the broker at {address} refused the user name or password; check LTX_BROKER_URL"
    if isinstance(error, redis.exceptions.NoPermissionError):
        return f"the broker at {address} does not let this user do that; check its ACL and the user in LTX_BROKER_URL"
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            words = cause.verify_message.rstrip(".")
            return (
                f"the certificate of the broker at {address} cannot be trusted ({words}); LTX_BROKER_CA must name the"
                " file of the authority that signed it, and LTX_BROKER_URL a host that it was made for"
            )
        if isinstance(cause, ssl.SSLError):
            return f"the broker at {address} does not speak TLS ({cause.reason}); is the port in LTX_BROKER_URL right?"
    return None


def why_unreachable(error: Exception, address: str) -> str:
    """The sentence for any error of the connection."""
    if refused := why_refused(error, address):
        return refused
    if isinstance(error, redis.TimeoutError):
        return f"the broker at {address} did not answer in time; is it up, and reachable?"
    return f"cannot reach the broker at {address} ({_reason(error)}); is it running, and is LTX_BROKER_URL right?"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _reason(error: Exception) -> str:
    """The operating system's words, without the address that redis-py repeats around them."""
    cause = error.__cause__ or error.__context__
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(error).rstrip(".")
