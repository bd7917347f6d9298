"""Reads a finished video by the link that its worker has left, for those who have no keys to the storage."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from ltx_client.protocol.storage import CHUNK, StorageError, receive

__all__ = ["fetch_link"]

FORBIDDEN, GONE = HTTPStatus.FORBIDDEN, HTTPStatus.GONE
TIMEOUT = 30.0


def fetch_link(link: str, name: str, target: Path, sha256: str) -> None:
    """Copies the file to `target` if its SHA-256 is the expected one. No message shows the link, which is a key.

    Raises StorageError, and OSError when `target` cannot be written; either way `target` is as it was.
    """
    parts = urlsplit(link)
    if parts.scheme not in ("http", "https"):
        raise StorageError(f"the link to {name} is not one of the web's")
    receive(_chunks(link, name, parts.netloc), target, sha256, f"{name} at {parts.netloc}")


def _chunks(link: str, name: str, where: str) -> Iterator[bytes]:
    try:
        with urllib.request.urlopen(link, timeout=TIMEOUT) as reply:  # noqa: S310 - the scheme is checked above
            while chunk := reply.read(CHUNK):
                yield chunk
    except urllib.error.HTTPError as error:
        with error:
            hint = "; such links hold for some days only" if error.code in (FORBIDDEN, GONE) else ""
        raise StorageError(f"cannot read {name} at {where}: {error.code} {error.reason}{hint}") from None
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise StorageError(f"cannot read {name} at {where}: {getattr(error, 'reason', error)}") from None
