"""Explain why a broker cannot be used, in a sentence with its address and what to check, never a password."""

from __future__ import annotations

import os
import re
import ssl

import redis

from ltx_client.shared.broker.certificate import NEW_CERTIFICATE
from ltx_client.shared.broker.first_contact import NotAsTheUrlSays
from ltx_client.shared.broker.outages import NOT_NOW, causes, error_code, is_without_primary

__all__ = ["why_refused", "why_unreachable", "why_wrong"]

_OF_ANOTHER_TIME = {
    9: "is not valid yet; check this machine's clock",
    10: f"has expired, or this machine's clock is wrong; {NEW_CERTIFICATE}",
}
"""Sentences by OpenSSL's verification codes (X509_V_ERR_CERT_NOT_YET_VALID and …_HAS_EXPIRED)."""
_WITHOUT_PASSWORD = re.compile("without any password configured|no password is set")
_ASYNCIOS = re.compile(r"\[Errno (\d+)\] Connect call failed")
"""asyncio's words, which have the address in them, and the operating system's number of the error."""
LONGEST = 200
"""Characters of a server's own words that are repeated."""


def why_refused(error: Exception, address: str) -> str | None:
    """Return a sentence for an error that retrying will not fix, from a broker that answered; None for any other."""
    if isinstance(error, NotAsTheUrlSays):
        return f"the broker at {address} {error}"
    if isinstance(error, redis.AuthenticationError) and _WITHOUT_PASSWORD.search(str(error)):
        return (
            f"the broker at {address} has no password but was given one; check that it is the server and not a"
            " sentinel, then remove the password from LTX_BROKER_URL and LTX_BROKER_PASSWORD_FILE"
        )
    if isinstance(error, redis.AuthenticationError):
        return f"the broker at {address} refused the user name or password; check LTX_BROKER_URL"
    if isinstance(error, redis.exceptions.NoPermissionError):
        return f"the broker at {address} {NOT_NOW['NOPERM']}"
    for cause in causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            if cause.verify_code in _OF_ANOTHER_TIME:
                return f"the certificate of the broker at {address} {_OF_ANOTHER_TIME[cause.verify_code]}"
            words = cause.verify_message.rstrip(".")
            return (
                f"the certificate of the broker at {address} cannot be trusted ({words}); LTX_BROKER_CA must name the"
                " file of the authority that signed it, and LTX_BROKER_URL a host that it was made for"
            )
        if isinstance(cause, ssl.SSLError) and "CERTIFICATE_REQUIRED" in str(cause):
            return (
                f"the broker at {address} requires a certificate of this client's own; name it, and its key, by the"
                " options ssl_certfile and ssl_keyfile of LTX_BROKER_URL"
            )
        if isinstance(cause, ssl.SSLEOFError):
            return (
                f"the broker at {address} ends the connection while TLS begins: it does not speak TLS, or requires a"
                " certificate of this client's own (the options ssl_certfile and ssl_keyfile of LTX_BROKER_URL)"
            )
        if isinstance(cause, ssl.SSLError):
            return f"the broker at {address} does not speak TLS ({cause.reason}); check the port in LTX_BROKER_URL"
    return None


def why_unreachable(error: Exception, address: str) -> str:
    """Return a sentence for any outage that `is_outage` recognizes."""
    if refused := why_refused(error, address):
        return refused
    if is_without_primary(error):
        return _why_no_primary(error, address)
    code = error_code(error)
    if code in NOT_NOW:
        return f"the broker at {address} {NOT_NOW[code]}"
    if isinstance(error, redis.TimeoutError):
        return f"the broker at {address} did not answer in time; check that it is up and reachable"
    if isinstance(error, redis.InvalidResponse):
        return f"what answers at {address} is not a Redis or Valkey server; check LTX_BROKER_URL"
    if "max number of clients" in str(error):
        return f"the broker at {address} has no free connections; raise its maxclients"
    return f"cannot reach the broker at {address} ({_reason(error)}); check that it is running, and LTX_BROKER_URL"


def why_wrong(error: Exception, address: str) -> str:
    """Return a sentence for an error reply that is not an outage: a damaged key or an unknown command."""
    words = str(error).rpartition("of pipeline caused error: ")[2].rstrip(".")
    shown = "".join(character if character.isprintable() else "?" for character in words[:LONGEST])
    if error_code(error) == "WRONGTYPE":
        return (
            f"a key of the farm on the broker at {address} is damaged: it has a value of the wrong type ({shown});"
            " `ltx doctor` names such keys"
        )
    return f"the broker at {address} refused a command ({shown}); check that its version is one that the farm supports"


def _why_no_primary(error: Exception, address: str) -> str:
    """Return a sentence for sentinels that name no primary server; redis-py's text has the errors of all of them."""
    sentinels, _, name = address.rpartition("/")
    if any(word in str(error) for word in ("AuthenticationError", "NOAUTH", "WRONGPASS")):
        return (
            f"the sentinels at {sentinels} require another password; set LTX_BROKER_SENTINEL_PASSWORD_FILE, or the"
            " option sentinel_password of LTX_BROKER_URL"
        )
    if " : " in str(error):
        return f"cannot reach the sentinels at {sentinels}, or they know no {name} that is up; check LTX_BROKER_URL"
    return f"the sentinels at {sentinels} know no {name} that is up; check its name in LTX_BROKER_URL"


def _reason(error: Exception) -> str:
    """Return the operating system's words, without the address that redis-py repeats around them."""
    cause = error.__cause__ or error.__context__
    if isinstance(cause, OSError):
        if found := _ASYNCIOS.search(str(cause)):
            return os.strerror(int(found[1]))
        if cause.strerror:
            return cause.strerror
    return str(error).rstrip(".")
