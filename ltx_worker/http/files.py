"""Finished videos over HTTP, to whoever has a link: for clients that cannot see the storage.

A link names one video and when it ends, signed with a key that never leaves this machine. Who has none, or changes one,
gets nothing, and does not learn which videos there are.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import threading
import time
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qs, urlencode

from ltx_client.shared.private_files import drawn_once
from ltx_client.shared.storage.store import Storage, StorageError
from ltx_worker.http.server import BoundedHandler, BoundedServer
from ltx_worker.threads.background import keep_at_it, watched
from ltx_worker.threads.watched import THREADS

__all__ = ["FileServer", "link_key"]

log = logging.getLogger(__name__)

_PATH = re.compile(r"/videos/(?P<name>[0-9a-zA-Z-]+\.[0-9]+(\.[0-9a-f]{12})?\.mp4)")
"""Names as an attempt's video has them, and had them before they had a token; no other file can be asked for, whatever
is signed. The name is no secret, and opens nothing.
"""
_RANGE = re.compile(r"bytes=([0-9]{0,15})-([0-9]{0,15})")


def link_key(home: Path) -> bytes:
    """Return what this machine signs links with: drawn once and kept in LTX_HOME, so that links outlive a restart."""
    return drawn_once(home / "link-key", "[0-9a-f]{64}", lambda: secrets.token_hex(32)).encode()


class FileServer:
    """Serves the videos of `storage`, and makes the links. home: where their key lies.  url: what they begin with, as
    clients reach this machine.
    """

    def __init__(self, storage: Storage, home: Path, *, address: str, port: int, url: str) -> None:
        self.storage = storage
        self._home = home
        self._key = b""
        self._address = address
        self._port = port
        self._url = url.rstrip("/")
        self._server: _Server | None = None
        self._stopped = threading.Event()
        self.why_not = ""
        """Why it does not answer though it should, in a sentence."""

    def start(self) -> None:
        """Answer from threads of its own; port 0: not at all. Where the port is taken, `why_not` and the log say so."""
        if not self._port:
            return
        self._key = link_key(self._home)
        try:
            self._server = _Server((self._address, self._port), self)
        except OSError as error:
            self.why_not = f"no videos at {self._address}:{self._port}, so no links to them: {error.strerror}"
            log.error("%s", self.why_not)
            return
        serve = self._server.serve_forever
        watched(lambda loop: keep_at_it(serve, loop, self._stopped), "files").start()
        log.info("finished videos at port %d, by links to %s", self._port, self._url)

    def stop(self) -> None:
        """Answers no more."""
        self._stopped.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def link(self, name: str, seconds: int) -> str | None:
        """A URL by which anybody can read that video for so long; None where nothing is served."""
        if self._server is None:
            return None
        expires = str(int(time.time()) + seconds)
        query = urlencode({"expires": expires, "signature": self._sign(name, expires)})
        return f"{self._url}/videos/{name}?{query}"

    def check(self, name: str, query: str) -> HTTPStatus:
        """Whether a link's query allows this video: OK, FORBIDDEN, or GONE when it did until a while ago."""
        given = {key: values[-1] for key, values in parse_qs(query).items()}
        expires, signature = given.get("expires", ""), given.get("signature", "")
        if not hmac.compare_digest(self._sign(name, expires).encode(), signature.encode()):
            return HTTPStatus.FORBIDDEN
        return HTTPStatus.OK if time.time() < int(expires) else HTTPStatus.GONE

    def _sign(self, name: str, expires: str) -> str:
        return hmac.new(self._key, f"{name}\n{expires}".encode(), hashlib.sha256).hexdigest()


class _Server(BoundedServer):
    def __init__(self, address: tuple[str, int], files: FileServer) -> None:
        self.files = files
        super().__init__(address, _Handler)

    def service_actions(self) -> None:
        """Say twice a second, and after each request, that the server is at work."""
        THREADS.beat()


class _Handler(BoundedHandler):
    server: _Server

    def do_GET(self) -> None:  # noqa: N802
        path, _, query = self.path.partition("?")
        match = _PATH.fullmatch(path)
        status = HTTPStatus.NOT_FOUND if match is None else self.server.files.check(match["name"], query)
        if match is None or status is not HTTPStatus.OK:
            self.send_error(status)
            log.debug("%s asked for no video, or without a link: %d", self.client_address[0], status)
            return
        self.server.trust(self.request)
        status = self._send_video(match["name"])
        log.info("%s asked for %s: %d", self.client_address[0], match["name"], status)

    do_HEAD = do_GET  # noqa: N815

    def _send_video(self, name: str) -> HTTPStatus:
        storage = self.server.files.storage
        try:
            size = storage.size(name)
        except StorageError as error:
            log.warning("%s", error)
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, "the storage cannot be read")
            return HTTPStatus.SERVICE_UNAVAILABLE
        if size is None:
            self.send_error(HTTPStatus.NOT_FOUND, "the video is no longer in the storage")
            return HTTPStatus.NOT_FOUND
        tag = f'"{name}"'  # an attempt's video never changes
        asked = self.headers.get("Range") if self.headers.get("If-Range") in (None, tag) else None
        status, part = _part(asked, size)
        self.send_response(status)
        self.send_header("Accept-Ranges", "bytes")
        if status is HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            self.send_header("Content-Range", f"bytes */{size}")
        else:
            self.send_header("Content-Type", "video/mp4")
            self.send_header("ETag", tag)
        if status is HTTPStatus.PARTIAL_CONTENT:
            self.send_header("Content-Range", f"bytes {part.start}-{part.stop - 1}/{size}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if part and self.command == "GET":
            self._send_part(name, part)
        return status

    def _send_part(self, name: str, part: range) -> None:
        at = 0
        try:
            for chunk in self.server.files.storage.chunks(name):
                self.wfile.write(chunk[max(part.start - at, 0) : max(part.stop - at, 0)])
                at += len(chunk)
                if at >= part.stop:
                    return
        except StorageError as error:  # too late to say so: the client misses the rest
            log.warning("%s", error)


def _part(asked: str | None, size: int) -> tuple[HTTPStatus, range]:
    """Return the status and the bytes with which to answer a Range header; several ranges at once are answered with the
    whole, as is what is none.
    """
    match = _RANGE.fullmatch(asked or "")
    if match is None or match[0] == "bytes=-" or (match[1] and match[2] and int(match[1]) > int(match[2])):
        return HTTPStatus.OK, range(size)
    if match[1]:
        part = range(int(match[1]), min(int(match[2]) + 1, size) if match[2] else size)
    else:
        part = range(max(size - int(match[2]), 0), size)
    if not part:
        return HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, range(0)
    return HTTPStatus.PARTIAL_CONTENT, part
