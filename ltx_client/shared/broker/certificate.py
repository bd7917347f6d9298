"""Find out when the broker's certificate expires, or that of the authority that signed it."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import redis

__all__ = ["NEW_CERTIFICATE", "WARN_BEFORE", "Certificate", "broker_certificate", "first_to_end"]

WARN_BEFORE = 30 * 86400.0
"""Seconds before a certificate expires from which on doctors and `CertificateEnds` in deploy/alerts.yml warn."""
NEW_CERTIFICATE = "run deploy/certs.sh again on the broker's machine, then restart the broker"


class Certificate(NamedTuple):
    """A certificate and its end.

    Attributes:
        ends: When it expires, in seconds since 1970.
        of: What it is, in words.
        fix: How to get one that is valid for longer.
    """

    ends: float
    of: str
    fix: str


def broker_certificate(client: redis.Redis) -> Certificate | None:
    """Return the certificate that expires first of those by which this broker is verified; None if it is not verified.

    Raises:
        redis.RedisError: The broker did not answer.
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
    """Return the certificate that expires first.

    Args:
        peer: The broker's own, as `ssl` decodes it; empty if it is not verified.
        authorities: Those of the authorities, decoded in the same way.
    """
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
    fix = "run deploy/certs.sh with another folder, for a new authority, and copy its ca.crt to all clients and workers"
    return Certificate(max(of_signers), "the certificate of the broker's authority", fix)
