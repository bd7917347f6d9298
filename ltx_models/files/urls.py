"""Refuse URLs where a file is expected: they are not read."""

from __future__ import annotations

import re
import urllib.parse

from ltx_models.errors import InvalidRequest

__all__ = ["check_is_no_url", "is_url"]

_URL = re.compile(
    r"\s*([a-z][a-z0-9+.-]+(?=://)|(?:https?|s3|file|ftp)(?=:/)|data(?=:)):/{0,2}(.*)", re.IGNORECASE | re.DOTALL
)
"""A URL, also one that lost a slash because it was taken for a path: its scheme, and the rest."""


def is_url(source: str) -> bool:
    """Return whether a file's name is a URL."""
    return _URL.fullmatch(source) is not None


def check_is_no_url(kind: str, source: str) -> None:
    """Raise InvalidRequest for a URL; the message repeats only host and path, since the rest may contain a secret."""
    url = _URL.fullmatch(source)
    if url is None:
        return
    scheme, rest = url[1].lower(), url[2]
    rest = re.sub(r"^[^/?#]*@|[?#].*$", "", rest, flags=re.DOTALL)
    shown = f"{scheme}:…" if scheme == "data" or not rest.isprintable() else f"{scheme}://{_cut(rest)}"
    advice = "download it first, and give the file"
    if scheme == "data":
        advice = "save its content as a file, and give that"
    elif scheme == "file":
        path = urllib.parse.unquote(rest).removeprefix("localhost")
        advice = f"give the path itself, {_cut(path)}" if path.isprintable() else "give the path itself"
    article = "an" if kind == "image" else "a"
    raise InvalidRequest(f"{article} {kind} was given as the URL {shown}, and URLs are not read; {advice}")


def _cut(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:199]}…"
