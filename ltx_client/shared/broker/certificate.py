"""When the certificate that a broker shows of itself ends, or that of the authority which signed it."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import redis

__all__ = ["NEW_CERTIFICATE", "WARN_BEFORE", "Certificate", "broker_certificate", "first_to_end"]

WARN_BEFORE = 30 * 86400.0
"""Seconds before its end from which on it is warned of; `CertificateEnds` in deploy/alerts.yml has the same."""
NEW_CERTIFICATE = "deploy/certs.sh again, on the broker's machine, then restart the broker"


class Certificate(NamedTuple):
    """ends: in seconds since 1970.  of: whose it is, in words.  mend: how to get one that lasts longer."""

    ends: float
    of: str
    mend: str


def broker_certificate(client: redis.Redis) -> Certificate | None:
    """Return the certificate that ends first of those by which this broker is verified; None where it is not verified.

    Raise redis-py's errors.
    """
    pool = client.connection_pool
    connection = pool.get_connection()
    try:
        sock = getattr(connection, "_sock", None)  # redis-py has no other way to it
        if not isinstance(sock, ssl.SSLSocket):
            return None
        return first_to_end(sock.getpeercert() or {}, sock.context.get_ca_certs())
    finally:
        pool.release(connection)


def first_to_end(peer: Mapping[str, Any], authorities: Iterable[Mapping[str, Any]]) -> Certificate | None:
    """Return what ends first, of certificates as `ssl` decodes them. peer: the broker's own, empty if not verified."""
    if "notAfter" not in peer:
        return None
    own = Certificate(ssl.cert_time_to_seconds(peer["notAfter"]), "the broker's certificate", NEW_CERTIFICATE)
    of_signers = [
        ssl.cert_time_to_seconds(authority["notAfter"])
        for authority in authorities
        if authority.get("subject") == peer.get("issuer")
    ]
    if not of_signers or max(of_signers) >= own.ends:
        return own
    mend = "deploy/certs.sh with another folder, for a new authority; its ca.crt to all clients and workers"
    return Certificate(max(of_signers), "the certificate of the broker's authority", mend)
