"""Finished videos over HTTP, to whoever has a link: for clients that cannot see the storage.

A link names one video and when it ends, signed with a key that never leaves this machine. Who has none, or changes one,
gets nothing, and does not learn which videos there are.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import re
import secrets
import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

from ltx_client.protocol.storage import Storage, StorageError

__all__ = ["FileServer", "link_key"]

log = logging.getLogger(__name__)

_PATH = re.compile(r"/videos/(?P<name>[0-9a-zA-Z-]+\.[0-9]+\.mp4)")
"""Names as an attempt's video has them; no other file can be asked for, whatever is signed."""
PATIENCE = 30.0
"""Seconds that a client may keep a thread waiting for its next word, or for taking the next bytes."""


def link_key(home: Path) -> bytes:
    """What this machine signs links with: drawn once and kept in LTX_HOME, so that links outlive a restart."""
    path = home / "link-key"
    if not path.exists():
        temporary = home / f".link-key.{secrets.token_hex(4)}"
        temporary.touch(mode=0o600, exist_ok=False)
        temporary.write_text(secrets.token_hex(32))
        temporary.replace(path)
    return path.read_bytes()


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
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        """Answers from threads of its own; port 0: not at all. A port that is taken is told in the log, and no more."""
        if not self._port:
            return
        self._key = link_key(self._home)
        try:
            self._server = _Server((self._address, self._port), self)
        except OSError as error:
            log.error(
                "no videos at %s:%d, so there are no links to them: %s", self._address, self._port, error.strerror
            )
            return
        threading.Thread(target=self._server.serve_forever, name="files", daemon=True).start()
        log.info("finished videos at port %d, by links to %s", self._port, self._url)

    def stop(self) -> None:
        """Answers no more."""
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


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], files: FileServer) -> None:
        self.files = files
        super().__init__(address, _Handler)

    def handle_error(self, _request: object, client_address: object) -> None:
        """One client's trouble is nobody else's, and no traceback."""
        log.warning("a request of %s was dropped: %s", client_address, sys.exc_info()[1])


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = PATIENCE

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        match = _PATH.fullmatch(parts.path)
        status = HTTPStatus.NOT_FOUND if match is None else self.server.files.check(match["name"], parts.query)
        with contextlib.suppress(ConnectionError, TimeoutError):  # the client has gone, or does not read
            if match is None or status is not HTTPStatus.OK:
                self.send_error(status)
            else:
                status = self._send_video(match["name"])
        log.info("%s asked for %s: %d", self.client_address[0], match["name"] if match else "no video", status)

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
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "video/mp4")
        self.send_header("Content-Length", str(size))
        self.end_headers()
        try:
            for chunk in storage.chunks(name):
                self.wfile.write(chunk)
        except StorageError as error:  # too late to say so: the client misses the rest
            log.warning("%s", error)
        return HTTPStatus.OK

    def log_message(self, *_: object) -> None:
        """Says nothing: the line of a request has its signature in it."""

    def version_string(self) -> str:
        """Not which Python this is."""
        return "ltx-farm"
