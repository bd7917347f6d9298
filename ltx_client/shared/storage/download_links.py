"""Download a finished video by its worker's link, for clients without access to the storage.

Whoever can write a job's record can write a link, so a link leads to one server of the web only, and downloads are
limited in bytes and in time.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from ltx_client.shared.storage.store import CHUNK, StorageError, receive

__all__ = ["fetch_link"]

FORBIDDEN, GONE = HTTPStatus.FORBIDDEN, HTTPStatus.GONE
TIMEOUT = 30.0
"""Seconds without a byte after which a server is considered gone."""
GRACE = 60.0
SLOWEST = 32 * 1024
"""Bytes a second; a download may take GRACE seconds and the time for its size at this rate, in all."""
LONGEST = 24 * 3600.0
_PRINTABLE = re.compile("[!-~]{1,8192}")


def fetch_link(link: str, name: str, target: Path, sha256: str, size: int) -> None:
    """Copy a file to `target` if its SHA-256 is the expected one. No message shows the link, which is a secret.

    Redirects are not followed. Proxies are used as the environment names them (HTTPS_PROXY, NO_PROXY and so on).

    Args:
        link: The download link.
        name: The file's name, for people.
        target: The file to write.
        sha256: The expected SHA-256, in hex.
        size: The file's size in bytes; no more are read.

    Raises:
        StorageError: The file cannot be read, or is another one; `target` is unchanged.
        OSError: `target` cannot be written, and is unchanged.
    """
    parts = _split(link)
    if parts is None:
        raise StorageError(f"the link to {name} is invalid: it does not lead to the web; render again to get a new one")
    seconds = min(LONGEST, GRACE + max(size, 0) / SLOWEST)
    receive(_chunks(link, name, parts.netloc, seconds), target, sha256, f"{name} at {parts.netloc}", size)


def _split(link: str) -> SplitResult | None:
    """Return the link's parts; None if it is not a link to a file on a server of the web."""
    if not _PRINTABLE.fullmatch(link):  # before it is split, which drops some control characters
        return None
    try:
        parts = urlsplit(link)
        port = parts.port
    except ValueError:
        return None
    fits = parts.scheme in ("http", "https") and parts.hostname and port != 0 and "@" not in parts.netloc
    return parts if fits else None


def _chunks(link: str, name: str, where: str, seconds: float) -> Iterator[bytes]:
    deadline = _Deadline(seconds)
    try:
        with deadline, _opener(deadline).open(link, timeout=TIMEOUT) as reply:
            while chunk := reply.read1(CHUNK):
                deadline.check()
                yield chunk
            deadline.check()
    except urllib.error.HTTPError as error:
        with error:
            why = _why_refused(error)
        raise StorageError(f"cannot read {name} at {where}: {why}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise StorageError(f"cannot read {name} at {where}: {_why_failed(error, deadline)}") from None


def _why_refused(error: urllib.error.HTTPError) -> str:
    """Return what a status means; what the server wrote besides is not shown."""
    phrase = HTTPStatus(error.code).phrase if error.code in set(HTTPStatus) else "an unknown status"
    if error.code in (FORBIDDEN, GONE):
        return f"{error.code} {phrase}; such links are valid for some days only"
    if 300 <= error.code < 400:
        return f"{error.code} {phrase}, which is not followed: a link may lead only to the server that it names"
    return f"{error.code} {phrase}"


def _why_failed(error: Exception, deadline: _Deadline) -> str:
    if deadline.is_over:
        return f"the download took more than {deadline.seconds:.0f} s, which is too long for its size"
    reason = getattr(error, "reason", error)
    if isinstance(reason, OSError):
        return reason.strerror or str(reason)
    return f"the answer is not HTTP ({type(error).__name__})"


class _Deadline:
    """A time limit that closes connections when it is over: a server that is slow enough would never meet a timeout."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._cut_off)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        for connection in self._sockets:
            connection.close()

    @property
    def is_over(self) -> bool:
        """Return whether the time is over."""
        return time.monotonic() >= self._end

    def check(self) -> None:
        """Raise TimeoutError when the time is over: a closed connection reads like one that has ended."""
        if self.is_over:
            raise TimeoutError

    def connect(self, *arguments: Any, **options: Any) -> socket.socket:
        """Connect like `socket.create_connection`, and keep a descriptor, since encryption takes over the first one."""
        connection = socket.create_connection(*arguments, **options)
        self._sockets.append(connection.dup())
        if self.is_over:
            self._cut_off()
        return connection

    def _cut_off(self) -> None:
        for connection in self._sockets:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Web(urllib.request.HTTPSHandler):
    """A handler that opens http and https links, over connections with a deadline."""

    def __init__(self, deadline: _Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        """Open a link like urllib's own handler."""
        return self.do_open(self._made_by(http.client.HTTPConnection), request)

    http_request = urllib.request.HTTPSHandler.do_request_

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        """Open a link like urllib's own handler."""
        return self.do_open(self._made_by(http.client.HTTPSConnection), request)

    def _made_by(self, kind: Any) -> Any:
        def make(host: str, **options: Any) -> Any:
            connection = kind(host, **options)
            connection._create_connection = self._deadline.connect
            return connection

        return make


def _opener(deadline: _Deadline) -> urllib.request.OpenerDirector:
    """Return an opener that knows HTTP and proxies only: no redirects, no other schemes, no passwords."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        _Web(deadline),
        urllib.request.ProxyHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener
