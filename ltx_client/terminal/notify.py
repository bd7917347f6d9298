"""Notify somebody that jobs have ended: by a webhook, and on the desktop. The command that waits for jobs does both.

A webhook is a POST of JSON. With a secret (LTX_NOTIFY_SECRET, or a file that LTX_NOTIFY_SECRET_FILE names) it is
signed: X-LTX-Signature is "sha256=" and the HMAC-SHA256, in hex, of X-LTX-Timestamp, a full stop, and the body.
"""

from __future__ import annotations

import base64
import codecs
import hashlib
import hmac
import html
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Sequence
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from ltx_client.errors import UsageError
from ltx_client.farm.describe import describe_end
from ltx_client.farm.jobs.views import JobView
from ltx_client.farm.outputs.names import short_id
from ltx_client.protocol.redaction import hide_secret, hide_url_secrets
from ltx_client.protocol.state import Status
from ltx_client.protocol.text import is_printable, shown

__all__ = ["check_url", "secret", "send_webhook", "show_on_desktop", "sign", "summary"]

TRIES = 3
TIMEOUT = 10.0
WAIT = 1.0
"""Seconds before the second try; twice as many before the third."""
NEVER_AGAIN = range(400, 500)
"""Statuses that another try would get again."""
NO_PROXY = "the environment names a proxy (HTTPS_PROXY or the like) that is not http://HOST:PORT"
_AS_IT_IS = "%/:@!$&'()*+,;=~"
"""Characters of a URL's path that are sent unchanged; others, such as letters with accents, are percent-encoded."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def check_url(url: str) -> str:
    """Return the URL, if a webhook can be sent to it.

    Raises:
        UsageError: It is invalid; the message does not contain the URL, which may have a token in it.
    """
    hide_url_secrets(url, path=True)
    try:
        _as_sent(url)
    except ValueError as error:
        raise UsageError(f"--notify takes an http:// or https:// URL; this one {error}") from None
    return url


def _as_sent(url: str) -> tuple[str, dict[str, str]]:
    """Return the URL in ASCII and without an account, and the headers for the account.

    Raises:
        ValueError: The URL is invalid; the message does not contain it.
    """
    if url != url.strip() or not is_printable(url):
        raise ValueError("has a blank, a line break or another control character in it; leave that out")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("cannot be parsed; check its host") from None
    if parts.scheme not in ("http", "https"):
        raise ValueError("has another scheme, or none")
    try:
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:
        port = ":0"
    if port == ":0":
        raise ValueError("has an invalid port; write / ? # @ of a password as %2F %3F %23 %40")
    host = _host_as_sent(parts.hostname or "")
    headers = {}
    if parts.username or parts.password:
        account = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}".encode()
        headers["Authorization"] = f"Basic {base64.b64encode(account).decode()}"
    path, query = quote(parts.path or "/", safe=_AS_IT_IS), quote(parts.query, safe=_AS_IT_IS + "?")
    return urlunsplit((parts.scheme, host + port, path, query, "")), headers


def _host_as_sent(host: str) -> str:
    if not host:
        raise ValueError("names no host")
    try:
        if ":" in host:
            return f"[{IPv6Address(host)}]"
        name = host.encode("idna").decode()
    except ValueError:
        name = ""
    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError("has an invalid host")
    return name


def secret() -> bytes | None:
    """Return the key that webhooks are signed with, if there is one.

    Raises:
        UsageError: The key's file cannot be read, or is empty.
    """
    if text := os.environ.get("LTX_NOTIFY_SECRET"):
        hide_secret(text)
        return os.fsencode(text)
    if path := os.environ.get("LTX_NOTIFY_SECRET_FILE"):
        try:
            key = Path(path).expanduser().read_bytes().removeprefix(codecs.BOM_UTF8).strip()
        except (OSError, RuntimeError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise UsageError(f"cannot read LTX_NOTIFY_SECRET_FILE {path}: {why}") from None
        if not key:
            raise UsageError(f"LTX_NOTIFY_SECRET_FILE {path} is empty; it must contain the secret")
        hide_secret(key.decode(errors="replace"))
        return key
    return None


def sign(key: bytes, timestamp: str, body: bytes) -> str:
    """Return the value of X-LTX-Signature."""
    return "sha256=" + hmac.new(key, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def summary(views: Sequence[JobView]) -> str:
    """Return in a few words how jobs ended."""
    if len(views) == 1:
        error = views[0].snapshot.error
        return f"job {short_id(views[0].job.id)} is {views[0].status}" + (f": {error}" if error else "")
    counts = Counter(view.status for view in views)
    return f"{len(views)} jobs: " + ", ".join(f"{counts[status]} {status}" for status in Status if counts[status])


def send_webhook(url: str, views: Sequence[JobView]) -> str | None:
    """Post how jobs ended, in three tries at most.

    Returns:
        None, or a sentence on why it was not delivered.
    """
    body = json.dumps(describe_end(views, summary(views))).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "ltx-farm", "X-LTX-Timestamp": str(int(time.time()))}
    if key := secret():
        headers["X-LTX-Signature"] = sign(key, headers["X-LTX-Timestamp"], body)
    address, account = _as_sent(url)
    request = urllib.request.Request(address, body, headers | account)  # noqa: S310 - check_url has seen it
    opener = urllib.request.build_opener(_NoRedirects)
    why = ""
    for number in range(TRIES):
        time.sleep(WAIT * number)
        try:
            with opener.open(request, timeout=TIMEOUT):
                return None
        except urllib.error.HTTPError as error:
            why = f"it answered {error.code}"
            if error.code in NEVER_AGAIN:
                break
        except urllib.error.URLError as error:
            why = str(getattr(error.reason, "strerror", None) or error.reason)
            if "unknown url type" in why:  # such as a SOCKS proxy
                why = NO_PROXY
                break
        except (ValueError, http.client.InvalidURL):  # with the proxy's URL in it
            why = NO_PROXY
            break
        except (OSError, http.client.HTTPException) as error:
            why = str(error) or type(error).__name__
    by = ", through the proxy that the environment names" if why != NO_PROXY and _goes_by_proxy(address) else ""
    return f"the webhook at {urlsplit(url).hostname} was not delivered: {why}{by}"


def _goes_by_proxy(address: str) -> bool:
    parts = urlsplit(address)
    return parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(parts.netloc)


def show_on_desktop(text: str) -> bool:
    """Show a notification, if this system can.

    Returns:
        Whether it can.
    """
    text = shown(text)  # it is an argument, and so in the list of processes, too
    if sys.platform == "darwin":
        script = ("on run argv", "display notification (item 1 of argv) with title (item 2 of argv)", "end run")
        command = ["/usr/bin/osascript", *(word for line in script for word in ("-e", line)), text, "ltx-farm"]
    elif (program := shutil.which("notify-send")) and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        command = [program, "--app-name=ltx-farm", "--", "ltx-farm", html.escape(text, quote=False)]  # it reads markup
    else:
        return False
    try:
        return subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
