"""Telling somebody that jobs have ended: a webhook, and the desktop. The command that waits for the jobs sends both.

A webhook is a POST of JSON. With a secret (LTX_NOTIFY_SECRET, or a file that LTX_NOTIFY_SECRET_FILE names) it is
signed: X-LTX-Signature is "sha256=" and the HMAC-SHA256, in hex, of X-LTX-Timestamp, a full stop, and the body.
"""

from __future__ import annotations

import hashlib
import hmac
import html
import http.client
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ltx_client.errors import UsageError
from ltx_client.output_names import short_id
from ltx_client.protocol.redaction import know, know_url
from ltx_client.protocol.state import Status
from ltx_client.protocol.text import shown
from ltx_client.views import JobView

__all__ = ["check_url", "secret", "send_webhook", "show_on_desktop", "sign", "summary"]

TRIES = 3
TIMEOUT = 10.0
WAIT = 1.0
"""Seconds before the second try; twice as many before the third."""
NEVER_AGAIN = range(400, 500)
"""Answers after which another try would be answered the same."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def check_url(url: str) -> str:
    """The URL, if a webhook can be sent to it. Raises UsageError, without the URL: it may hold a token."""
    know_url(url, path=True)
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and url.isascii():
            return url
    except ValueError:
        pass
    raise UsageError("--notify takes an http:// or https:// URL")


def secret() -> bytes | None:
    """What webhooks are signed with, if anything. Raises UsageError for a file that cannot be read, or is empty."""
    if text := os.environ.get("LTX_NOTIFY_SECRET"):
        know(text)
        return text.encode()
    if path := os.environ.get("LTX_NOTIFY_SECRET_FILE"):
        try:
            key = Path(path).expanduser().read_bytes().strip()
        except OSError as error:
            raise UsageError(f"cannot read LTX_NOTIFY_SECRET_FILE {path}: {error.strerror}") from None
        if not key:
            raise UsageError(f"LTX_NOTIFY_SECRET_FILE {path} is empty; it must hold the secret")
        know(key.decode(errors="replace"))
        return key
    return None


def sign(key: bytes, timestamp: str, body: bytes) -> str:
    """The value of X-LTX-Signature."""
    return "sha256=" + hmac.new(key, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def summary(views: Sequence[JobView]) -> str:
    """How jobs ended, in a few words."""
    if len(views) == 1:
        error = views[0].snapshot.error
        return f"job {short_id(views[0].job.id)} is {views[0].status}" + (f": {error}" if error else "")
    counts = Counter(view.status for view in views)
    return f"{len(views)} jobs: " + ", ".join(f"{counts[status]} {status}" for status in Status if counts[status])


def send_webhook(url: str, views: Sequence[JobView]) -> str | None:
    """Posts how jobs ended. Returns None, or in a sentence why it did not arrive; tries thrice, at most."""
    body = json.dumps(_payload(views)).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "ltx-farm", "X-LTX-Timestamp": str(int(time.time()))}
    if key := secret():
        headers["X-LTX-Signature"] = sign(key, headers["X-LTX-Timestamp"], body)
    request = urllib.request.Request(url, body, headers)  # noqa: S310 - check_url has seen it
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
        except (OSError, http.client.HTTPException) as error:
            why = str(error) or type(error).__name__
    return f"the webhook at {urlsplit(url).hostname} was not delivered: {why}"


def show_on_desktop(text: str) -> bool:
    """Shows a notification, where this system has a way to. Returns whether it has."""
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


def _payload(views: Sequence[JobView]) -> dict[str, Any]:
    batches = {view.links.batch for view in views}
    jobs = [
        {
            "id": view.job.id,
            "status": view.status,
            "error": view.snapshot.error,
            "prompt": view.job.request.prompt,
            "seed": view.job.request.seed,
            "video": view.snapshot.result.video if view.snapshot.result else None,
        }
        for view in views
    ]
    batch = batches.pop() if len(batches) == 1 else None
    return {"event": "ended", "summary": summary(views), "batch": batch, "jobs": jobs}
