"""How a broker's URL says that the connection is encrypted and the broker verified."""

from __future__ import annotations

import ssl
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

__all__ = ["check_authority", "with_tls"]


def check_authority(path: Path) -> Path:
    """The path, of a file that holds the certificate of an authority. Raises ValueError."""
    try:
        if not path.is_file():
            raise ValueError(f"there is no file {path}")
        ssl.create_default_context(cafile=path)
    except OSError as error:
        raise ValueError(f"{path} holds no certificate of an authority (PEM) that can be read") from error
    return path


def with_tls(url: str, authority: Path | None) -> str:
    """The URL with the broker's verification in it: redis-py does without, kombu would not even encrypt.

    Raises ValueError, without the URL in it, where an authority is named and the URL is not rediss://.
    """
    if not url.startswith("rediss://"):
        if authority is not None:
            raise ValueError("must be rediss://… where LTX_BROKER_CA is set; this one would not be encrypted")
        return url
    parts = urlsplit(url)
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if authority is not None:
        options["ssl_ca_certs"] = str(authority)
    return parts._replace(query=urlencode({"ssl_cert_reqs": "required", **options})).geturl()
