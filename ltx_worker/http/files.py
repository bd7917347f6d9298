"""Serve finished videos and their posters over HTTP by download links, for clients without access to the storage.

A download link names one file and the time until which it is valid, signed by a key that never leaves this machine. A
request without a valid link gets nothing, and does not show which videos there are.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qs, urlencode

from ltx_client.protocol.file_names import RESULT_FILES
from ltx_client.shared.private_files import drawn_once
from ltx_client.shared.storage.store import Storage, StorageError
from ltx_worker.http.server import BoundedHandler, BoundedServer, ServerThread

__all__ = ["FileServer", "link_key"]

log = logging.getLogger(__name__)

_MEDIA_TYPES = {kind.suffix: kind.media_type for kind in RESULT_FILES if kind.link}
_SUFFIXES = "|".join(map(re.escape, _MEDIA_TYPES))
_PATH = re.compile(rf"/videos/(?P<name>[0-9a-zA-Z-]+\.[0-9]+(\.[0-9a-f]{{12}})?(?P<suffix>{_SUFFIXES}))")
"""The names of attempts' files that have links, today's and those of versions before the token. No other file is ever
served.

The name is no secret, and gives no access.
"""
_RANGE = re.compile(r"bytes=([0-9]{0,15})-([0-9]{0,15})")


def link_key(home: Path) -> bytes:
    """Return this machine's key for links, drawn once and kept in LTX_HOME, so that links stay valid over a restart."""
    return drawn_once(home / "link-key", "[0-9a-f]{64}", lambda: secrets.token_hex(32)).encode()


class FileServer:
    """Serves the videos and posters of a storage, and makes the links to them.

    Args:
        storage: the storage.
        home: the folder of the links' key.
        address: the interface on which the port is opened.
        port: the port; 0 for none.
        url: the address by which clients reach this machine, with which each link begins.

    Attributes:
        why_not: why the port is not open though it should be, in a sentence, or "".
    """

    def __init__(self, storage: Storage, home: Path, *, address: str, port: int, url: str) -> None:
        self.storage = storage
        self._home = home
        self._key = b""
        self._address = address
        self._port = port
        self._url = url.rstrip("/")
        self._serving: ServerThread | None = None
        self.why_not = ""

    def start(self) -> None:
        """Open the port and answer in threads. If the port is taken, `why_not` and the log say so."""
        if not self._port:
            return
        self._key = link_key(self._home)
        try:
            server = _Server((self._address, self._port), self)
        except OSError as error:
            why = f"finished videos are not served, and have no download links: {self._address}:{self._port}"
            self.why_not = f"{why}: {error.strerror}; set LTX_WORKER_FILES_PORT to a free port"
            log.error("%s", self.why_not)
            return
        self._serving = ServerThread(server, "files")
        self._serving.start()
        log.info("finished videos are served at port %d, by download links to %s", self._port, self._url)

    def stop(self) -> None:
        """Close the port."""
        if self._serving is not None:
            self._serving.stop()

    def link(self, name: str, seconds: int) -> str | None:
        """Return a URL by which anybody can read a file for `seconds`; None if the port is not open."""
        if self._serving is None:
            return None
        expires = str(int(time.time()) + seconds)
        query = urlencode({"expires": expires, "signature": self._sign(name, expires)})
        return f"{self._url}/videos/{name}?{query}"

    def check(self, name: str, query: str) -> HTTPStatus:
        """Return whether a link's query gives access to a file: OK, FORBIDDEN, or GONE if the link has expired."""
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
        status = self._send_file(match["name"], _MEDIA_TYPES[match["suffix"]])
        log.info("%s asked for %s: %d", self.client_address[0], match["name"], status)

    do_HEAD = do_GET  # noqa: N815

    def _send_file(self, name: str, media_type: str) -> HTTPStatus:
        storage = self.server.files.storage
        try:
            size = storage.size(name)
        except StorageError as error:
            log.warning("%s", error)
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, "the storage cannot be read")
            return HTTPStatus.SERVICE_UNAVAILABLE
        if size is None:
            self.send_error(HTTPStatus.NOT_FOUND, "the file is no longer in the storage")
            return HTTPStatus.NOT_FOUND
        tag = f'"{name}"'  # an attempt's file never changes
        asked = self.headers.get("Range") if self.headers.get("If-Range") in (None, tag) else None
        status, part = _part(asked, size)
        self.send_response(status)
        self.send_header("Accept-Ranges", "bytes")
        if status is HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            self.send_header("Content-Range", f"bytes */{size}")
        else:
            self.send_header("Content-Type", media_type)
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
        except StorageError as error:  # too late for a status: the client notices the missing bytes
            log.warning("%s", error)


def _part(asked: str | None, size: int) -> tuple[HTTPStatus, range]:
    """Return the status and the bytes that answer a Range header.

    Several ranges, and an invalid header, are answered by the whole file.
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
