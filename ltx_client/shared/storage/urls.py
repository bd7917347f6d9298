"""Check which texts can be a farm's storage, and explain the others, before anything is opened or created."""

from __future__ import annotations

import posixpath
import re

__all__ = ["check_storage_url"]

RIGHT = "a folder such as /Volumes/farm, or a URL such as s3://bucket/folder"
FOLDERS = frozenset({"file", "local"})
"""Protocols whose URLs name a folder of this machine."""
BUCKETS = frozenset({"abfs", "adl", "az", "gcs", "gs", "oci", "oss", "s3", "s3a", "tos"})
"""Protocols whose URLs name a bucket, or something like it, right after the slashes."""
READ_ONLY = frozenset(
    {"blockcache", "data", "gist", "git", "github", "http", "https", "jlab", "jupyter", "libarchive", "reference"}
    | {"tar", "zip"}
)
"""Protocols that fsspec knows, but in which no file can be stored, or not under a name of its own."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(.*)", re.DOTALL)
_NO_COLON = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)//")


def check_storage_url(url: str) -> None:
    """Check a storage's URL.

    Raises:
        ValueError: It is invalid; the message says what to use, and shows no secret.
    """
    if not url.strip():
        raise ValueError(f"is empty; it must be {RIGHT}")
    if not url.isprintable():
        raise ValueError(f"has a control character in it; it must be {RIGHT}")
    if url != url.strip():
        raise ValueError(f"begins or ends with a space; it must be {RIGHT}")
    if re.match(r"[A-Za-z]:|\\\\", url):
        raise ValueError(f"is a Windows path; it must be {RIGHT}")
    *wrappers, last = url.split("::")
    for wrapper in wrappers:
        _check_protocol(wrapper.partition("://")[0])
    if match := _SCHEME.match(last):
        _check_scheme(match[1], match[2])
    else:
        _check_path(last)


def _check_scheme(scheme: str, rest: str) -> None:
    if not rest.startswith("//"):
        shown = scheme if _is_known(scheme) else "s3"
        raise ValueError(f"must have two slashes after the colon, such as {shown}://…" if rest else f"must be {RIGHT}")
    if scheme in FOLDERS:
        path = rest.removeprefix("//")
        if not path.startswith("/"):
            raise ValueError(f"must name a folder from the root on, such as {scheme}:///Volumes/farm")
        _check_path(path)
        return
    _check_protocol(scheme)
    place = rest.removeprefix("//")
    if not place.strip("/") or (scheme in BUCKETS and place.startswith("/")):
        raise ValueError(f"names no bucket, host or folder; it must be as {scheme}://NAME/FOLDER")


def _check_protocol(protocol: str) -> None:
    if protocol in READ_ONLY:
        raise ValueError(f"is {protocol}://, where nothing can be stored; it must be {RIGHT}")
    if not _is_known(protocol):
        shown = protocol if re.fullmatch(r"[A-Za-z0-9+.-]{1,20}", protocol) else "what is before ://"
        raise ValueError(f"has an unknown protocol ({shown}); it must be {RIGHT}")


def _is_known(protocol: str) -> bool:
    from fsspec.registry import known_implementations, registry  # takes a while to import

    return protocol in known_implementations or protocol in registry


def _check_path(path: str) -> None:
    if path.startswith("~"):
        raise ValueError(
            "begins with ~, which is another folder for each user; use the whole path, such as /Volumes/farm"
        )
    if (match := _NO_COLON.match(path)) and _is_known(match[1]):
        raise ValueError(f"has no colon after {match[1]}; it must be as {match[1]}://NAME/FOLDER")
    if not path.startswith("/"):
        raise ValueError(
            f"is relative to the current folder, which is another one for each program; it must be {RIGHT}"
        )
    if path.startswith("//"):
        raise ValueError(f"begins with two slashes; mount the share, and use {RIGHT}")
    if posixpath.normpath(path) == "/":
        raise ValueError("is the root of this machine's disk; use a folder of its own, such as /Volumes/farm")
