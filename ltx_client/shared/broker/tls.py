"""Configure how the connection to the broker is encrypted, and how the broker is verified."""

from __future__ import annotations

import ssl
from pathlib import Path

from ltx_client.shared.broker.url import Broker

__all__ = ["check_authority", "check_files", "with_tls"]


def check_authority(path: Path) -> Path:
    """Return the path of a file with the certificate of an authority.

    Raises:
        ValueError: There is no such certificate.
    """
    try:
        if not path.is_file():
            raise ValueError(f"there is no file {path}")
        ssl.create_default_context(cafile=path)
    except OSError as error:
        raise ValueError(f"{path} is invalid: it has no certificate of an authority; use a PEM file") from error
    return path


def check_files(broker: Broker) -> None:
    """Check the files that the URL's options name.

    Raises:
        ValueError: One cannot be used.
    """
    files = broker.given("ssl_")
    if "ssl_ca_certs" in files:
        check_authority(Path(files["ssl_ca_certs"]))
    certificate, key = files.get("ssl_certfile"), files.get("ssl_keyfile")
    if key and not certificate:
        raise ValueError("has the option ssl_keyfile without ssl_certfile")
    if certificate:
        try:
            ssl.create_default_context().load_cert_chain(certificate, key, password=_no_password)
        except (OSError, ValueError):
            raise ValueError(
                f"names a certificate, {certificate}, and a key, {key or 'in the same file'}, that cannot be read, do"
                " not belong together, or need a passphrase"
            ) from None


def with_tls(broker: Broker, authority: Path | None) -> Broker:
    """Return the broker with how it is verified: by that authority, or by the system's own.

    Raises:
        ValueError: An authority is given, but the connection would not be encrypted.
    """
    if broker.tls:
        own = {"ssl_ca_certs": str(authority)} if authority is not None else {}
        return broker.with_options(**{"ssl_cert_reqs": "required", **dict(broker.options), **own})
    if authority is not None:
        raise ValueError("must be rediss://… where LTX_BROKER_CA is set; this one would not be encrypted")
    return broker


def _no_password() -> str:
    """Answer OpenSSL's question for a passphrase, which would otherwise be asked on a terminal."""
    return ""
