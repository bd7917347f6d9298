"""An HTTP server for a port that anybody can reach, with bounds on the number and the duration of connections.

Each connection is one request, read within HEAD_TIMEOUT seconds and answered by a thread of its own. When there are
too many, of one address or in all, the oldest one that has not shown a valid link is closed for the next: a client
that only connects cannot keep others out. The bounds leave enough descriptors for the worker's own files and sockets.
"""

from __future__ import annotations

import contextlib
import io
import logging
import socket
import socketserver
import sys
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

from ltx_worker.threads.background import Background

__all__ = ["CONNECTIONS", "PER_ADDRESS", "BoundedHandler", "BoundedServer", "ServerThread"]

log = logging.getLogger(__name__)

CONNECTIONS = 32
PER_ADDRESS = 16
HEAD_TIMEOUT = 10.0
"""Seconds within which a whole request must arrive."""
SEND_TIMEOUT = 30.0
"""Seconds that a client may take to read a piece of the answer, a megabyte at most."""
HEAD_LIMIT = 16 * 1024
"""Bytes of a request, which has no body."""
EVICTION_TIMEOUT = 1.0
POLL_EVERY = 0.5
"""Seconds without a request after which a server looks whether it must stop."""
ACCEPT_PAUSE = 0.1
"""Seconds until the next connection is accepted after a failure: without a free descriptor it fails at once."""


@dataclass
class _Connection:
    address: str
    trusted: bool = False
    evicted: bool = False


class BoundedServer(socketserver.ThreadingTCPServer):
    """A threading server with bounds on its connections.

    Args:
        address: the interface and port.
        handler: a BoundedHandler.
        connections: the most connections in all.
        per_address: the most connections of one address.
    """

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 128
    timeout = POLL_EVERY

    def __init__(
        self,
        address: tuple[str, int],
        handler: type[BoundedHandler],
        *,
        connections: int = CONNECTIONS,
        per_address: int = PER_ADDRESS,
    ) -> None:
        self._limits = connections, per_address
        self._open: dict[Any, _Connection] = {}  # the oldest first
        self._changed = threading.Condition()
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, handler)

    def trust(self, request: Any) -> None:
        """Protect a connection that has shown a valid link from being closed before it is answered."""
        with self._changed:
            if request in self._open:
                self._open[request].trusted = True

    def get_request(self) -> tuple[Any, Any]:
        """Accept a connection."""
        try:
            return super().get_request()
        except OSError as error:
            log.warning("no connection could be accepted: %s", error.strerror)
            time.sleep(ACCEPT_PAUSE)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a new thread if there is room or an older connection can be closed; else answer 503."""
        if self._enter(request, client_address[0]):
            super().process_request(request, client_address)
            return
        with contextlib.suppress(OSError):
            request.settimeout(0)
            request.send(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 10\r\nConnection: close\r\n\r\n")
        self.shutdown_request(request)

    def close_request(self, request: Any) -> None:
        """Close a connection and free its place."""
        super().close_request(request)
        with self._changed:
            self._open.pop(request, None)
            self._changed.notify_all()

    def handle_error(self, _request: object, client_address: object) -> None:
        """Log one line for a request that failed; the server continues."""
        log.warning("a request of %s was dropped: %s", client_address, sys.exc_info()[1])

    def _enter(self, request: Any, address: str) -> bool:
        connections, per_address = self._limits
        with self._changed:
            same = [other for other, it in self._open.items() if it.address == address]
            crowd = same if len(same) >= per_address else list(self._open) if len(self._open) >= connections else []
            if crowd and not self._evict(crowd):
                return False
            self._open[request] = _Connection(address)
            return True

    def _evict(self, crowd: list[Any]) -> bool:
        """Close the oldest connection of a crowd that is not trusted; return whether its place became free."""
        waiting = [other for other in crowd if not self._open[other].trusted and not self._open[other].evicted]
        if not waiting:
            return False
        oldest = waiting[0]
        self._open[oldest].evicted = True
        with contextlib.suppress(OSError):
            oldest.shutdown(socket.SHUT_RDWR)  # its thread wakes, and closes it
        return self._changed.wait_for(lambda: oldest not in self._open, EVICTION_TIMEOUT)


class ServerThread(Background):
    """Run a thread that accepts a server's connections, from `start` to `stop`, which closes the port.

    It may be stopped at any moment: socketserver's own `shutdown` waits for ever for a `serve_forever` that has not
    begun.

    Args:
        server: The server, whose port is open.
        kind: The kind of thread.
    """

    def __init__(self, server: BoundedServer, kind: str) -> None:
        super().__init__(kind)
        self._server = server

    def stop(self) -> None:
        """End the thread and close the port."""
        super().stop()
        self._server.server_close()

    def _cycle(self) -> None:
        self._server.handle_request()


class BoundedHandler(BaseHTTPRequestHandler):
    """Answers one request; a subclass defines do_GET and the like."""

    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        """Answer the request, if a whole one arrived in time."""
        head = self._read_head()
        self.connection.settimeout(SEND_TIMEOUT)
        self.rfile = io.BytesIO(head)
        with contextlib.suppress(ConnectionError, TimeoutError):  # the client has gone, or does not read
            if len(head) > HEAD_LIMIT:
                self.command = self.requestline = ""
                self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            elif head:
                self.handle_one_request()

    def _read_head(self) -> bytes:
        """Return the request's line and headers: b"" if they are late, what was read if they are too large."""
        deadline = time.monotonic() + HEAD_TIMEOUT
        head = b""
        chunk: bytes
        with contextlib.suppress(ConnectionError, TimeoutError):
            while len(head) <= HEAD_LIMIT:
                self.connection.settimeout(max(deadline - time.monotonic(), 0.001))
                chunk = self.connection.recv(4096)
                head += chunk
                if not chunk:
                    break
                if b"\r\n\r\n" in head or b"\n\n" in head:
                    return head[: HEAD_LIMIT + 1]
            return head if len(head) > HEAD_LIMIT else b""
        return b""

    def handle_expect_100(self) -> bool:
        """Ask for no body, since none is read."""
        return True

    def send_error(self, code: int, message: str | None = None, _explain: str | None = None) -> None:
        """Answer with a status and a line of text, which repeats nothing of the request."""
        text = f"{message or HTTPStatus(code).phrase}\n".encode()
        self.request_version = self.protocol_version  # whatever was parsed of the request's
        self.send_response(code)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def end_headers(self) -> None:
        """End the answer's headers, and announce that the connection closes."""
        self.send_header("Connection", "close")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing: a request's line may contain a signature."""

    def version_string(self) -> str:
        """Return the server's name, without the version of Python."""
        return "ltx-farm"
