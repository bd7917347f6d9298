"""Hide what must not be shown, logged or sent to others: passwords, keys and tokens, wherever they are in a text.

A URL is shown without the parts that may be secret; one that cannot be parsed is not shown at all. The secrets that
this process was given are remembered, so that they are found wherever a library repeats them.
"""

from __future__ import annotations

import base64
import functools
import json
import re
import threading
from collections.abc import Iterator, Mapping
from urllib.parse import parse_qsl, quote, quote_plus, unquote

__all__ = ["hide_environment_secrets", "hide_secret", "hide_url_secrets", "redacted", "shown_url"]

STARS = "***"
ANYWHERE, AS_A_WORD = 8, 4
"""Characters from which on a known secret is hidden inside words, and as a word of its own.

A shorter one occurs in too many texts; it is hidden only where it appears in a URL.
"""
_NAMES = r"passw(?:or)?d|passphrase|secret|token|signature|credential|(?:api|access|account|private)_?key"
_ASSIGNED = re.compile(
    rf"(?i)((?:[\w.%-]*(?:{_NAMES})|x-amz-[\w-]+|\bsig)[\w.%-]*=b?['\"]?)(?!\*\*\*)[^\s&\"'`,;)\]}}>]+"
)
_AUTHORIZATION = re.compile(r"(?i)(\bauthorization['\"]?\s*[:=]\s*b?['\"]?(?:[\w-]+\s+)?)[^\s'\",]+")
_SECRET_PARAMETER = re.compile(rf"(?i)(?:{_NAMES}|^x-amz-|^sig$|^auth$|^key$)")
_SECRET_VARIABLE = re.compile(
    r"(?i)(?:^|_)(?:PASS|PASSWD|PASSWORD|PASSPHRASE|SECRET|TOKEN|CREDENTIALS?|AUTH|CONNECTION_STRING"
    r"|(?:API|ACCESS|ACCOUNT|PRIVATE|SECRET|SHARED)_?KEY(?:_ID)?)$"
)
_NO_SECRETS = ("true", "false", "none", "null", "yes", "no")

_OUR_WORDS = r"(?:\[USER:PASSWORD@\])?HOST:PORT|USER@HOST:PORT|(?:worker)?:PASSWORD@|ITS-NAME:PORT"
"""How our own texts write the parts of a URL."""
_URL = re.compile(rf"[a-zA-Z][a-zA-Z0-9+.-]*://(?!{_OUR_WORDS})\S+")
_END = re.compile(r"[)\]}>,.;:'\"!…]*$")
_CHAIN = re.compile(r"::(?=[a-zA-Z][a-zA-Z0-9+.-]*(?:://|::))")
"""What separates the URLs of a chain, as fsspec writes them."""
_PARTS = re.compile(r"(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?P<query>.*)", re.DOTALL)
_ONE_HOST = r"(?:[\w.-]+|\[[0-9a-fA-F:.]+(?:%\w+)?\])(?::\d*)?"
_HOST = re.compile(rf"(?:{_ONE_HOST}(?:,{_ONE_HOST})*)?")
"""One host, or several sentinels."""
_NAME = re.compile(r"[\w.-]*")
_RESERVED = re.compile(r"[/?#@:\[\]]")
_WITH_USERS = frozenset(
    {"redis", "rediss", "valkey", "valkeys", "unix", "redis+socket", "sentinel", "sentinels"}
    | {"sftp", "ssh", "ftp", "smb", "hdfs", "webhdfs"}
)
"""Schemes in which a word alone before the @ is a user's name; in others it may be a token."""

_changing = threading.Lock()
_known: frozenset[str] = frozenset()


def redacted(text: str) -> str:
    """Return the text with known secrets, and whatever may be a secret in a URL or in NAME=VALUE, replaced by stars."""
    if pattern := _pattern(_known):
        text = pattern.sub(STARS, text)
    if "://" in text:
        text = _URL.sub(_redacted_url, text)
    if "=" in text:
        text = _ASSIGNED.sub(rf"\1{STARS}", text)
    return _AUTHORIZATION.sub(rf"\1{STARS}", text) if "uthoriz" in text or "UTHORIZ" in text else text


def shown_url(url: str, *, path: bool = True) -> str:
    """Return a URL, or a chain of them, as it may be shown: without password, query and fragment.

    Args:
        url: The URL or chain of URLs.
        path: Whether the part after the host may be shown.
    """
    return "::".join(_shown(part, path) for part in _CHAIN.split(url))


def hide_secret(secret: str) -> None:
    """Hide this secret from now on, in every form in which it may be written."""
    global _known
    forms = {form for form in _forms(secret.strip()) if len(form) >= AS_A_WORD and form.lower() not in _NO_SECRETS}
    with _changing:
        _known |= forms


def hide_url_secrets(url: str, *, path: bool = False) -> None:
    """Hide the secrets in a URL, or in a chain of them, from now on.

    Args:
        url: The URL or chain of URLs.
        path: Whether the part after the host is secret too.
    """
    for part in _CHAIN.split(url):
        scheme, colons, rest = part.partition("://")
        for secret in _secrets(scheme, rest, in_path=path) if colons else ():
            hide_secret(secret)


def hide_environment_secrets(environment: Mapping[str, str]) -> None:
    """Hide the values of variables whose names say that they are secret, and secrets in those that contain a URL."""
    for name, value in environment.items():
        if "://" in value:
            hide_url_secrets(value)
        elif _SECRET_VARIABLE.search(name):
            hide_secret(value)


def _redacted_url(match: re.Match[str]) -> str:
    """Return a URL found in a text as it may be shown; punctuation that ends the sentence is not part of it."""
    url = _END.sub("", match[0])
    return shown_url(url) + match[0][len(url) :]


def _shown(url: str, with_path: bool) -> str:
    """Return one URL as it may be shown.

    If an @ follows the authority, a password may contain a character that ends one, so that part is hidden as well.
    """
    scheme, colons, rest = url.partition("://")
    if not colons:
        return re.sub(r"^[^/]*:[^/]*@", f"{STARS}@", url)
    parts = _parts(rest)
    account, at, host = parts["authority"].rpartition("@")
    name, colon, _ = account.partition(":")
    if "@" in parts["path"] + parts["query"] or not _HOST.fullmatch(host):
        return f"{scheme}://{STARS}"
    if scheme not in _WITH_USERS or not _NAME.fullmatch(name):
        name, colon = "", STARS * bool(at)
    path = parts["path"] if with_path else f"/{STARS}" * (len(parts["path"]) > 1)
    query = parts["query"][:1] + STARS if parts["query"] else ""
    return f"{scheme}://{name}{colon}{STARS * (colon == ':')}{at}{host}{path}{query}"


def _parts(rest: str) -> re.Match[str]:
    """Return the parts of what follows a URL's scheme."""
    match = _PARTS.fullmatch(rest)
    assert match is not None
    return match


def _secrets(scheme: str, rest: str, *, in_path: bool) -> Iterator[str]:
    """Yield the secrets in what follows a URL's scheme."""
    account, at, _ = rest.rpartition("@")
    name, colon, password = account.partition(":")
    if colon:
        yield password
        yield base64.b64encode(unquote(account).encode(errors="replace")).decode()  # as HTTP sends it
    elif at and scheme not in _WITH_USERS:
        yield name
    if _RESERVED.search(password):  # a library that takes it apart there may show a part
        yield from _RESERVED.split(password)
    parts = _parts(rest)
    for key, value in parse_qsl(parts["query"].lstrip("?#").replace("#", "&")):
        if in_path or _SECRET_PARAMETER.search(key):
            yield value
    if in_path:
        yield (parts["path"] + parts["query"]).lstrip("/")
        yield from (part for part in parts["path"].split("/") if len(part) >= ANYWHERE)


def _forms(secret: str) -> set[str]:
    """Return a secret as it is, and as URLs, JSON and Python write it."""
    plain = {secret, unquote(secret)}
    written = [text.encode(errors="backslashreplace") for text in plain]
    quoted = {form for text in written for form in (quote(text, safe=""), quote(text), quote_plus(text))}
    quoted |= {re.sub("%..", lambda match: match[0].lower(), text) for text in quoted}
    return plain | quoted | {json.dumps(text)[1:-1] for text in plain} | {repr(text)[1:-1] for text in plain}


@functools.lru_cache(maxsize=2)
def _pattern(known: frozenset[str]) -> re.Pattern[str] | None:
    """Return a pattern that finds secrets, a longer one before one that is a part of it."""
    words = (
        re.escape(secret) if len(secret) >= ANYWHERE else rf"(?<!\w){re.escape(secret)}(?!\w)"
        for secret in sorted(known, key=len, reverse=True)
    )
    return re.compile("|".join(words)) if known else None
