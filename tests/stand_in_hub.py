"""A hub on loopback that speaks as much of the Hugging Face hub's protocol as its client needs to download."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

REVISION = "c0ffee" + "0" * 34


@dataclass(frozen=True)
class Served:
    """One answered request for a file: from which byte on, and how many."""

    method: str
    path: str
    start: int
    sent: int
    authorization: str | None


@dataclass
class StandInHub:
    """repositories: name → path → content.

    cut: path → after how many bytes its first download breaks off; then it answers 503 until `mend`.
    corrupt: paths whose bytes arrive wrong.  sizes: path → a size to claim instead of the true one.
    """

    repositories: dict[str, dict[str, bytes]]
    cut: dict[str, int] = field(default_factory=dict)
    corrupt: set[str] = field(default_factory=set)
    sizes: dict[str, int] = field(default_factory=dict)
    served: list[Served] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._broken: set[str] = set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self)

            def do_HEAD(self) -> None:
                hub.answer(self)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def mend(self) -> None:
        """From now on every download ends well."""
        self.cut.clear()
        self.corrupt.clear()
        self._broken.clear()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(request.path).path).strip("/")
        if path.startswith("api/models/"):
            self._describe(request, "/".join(path.split("/")[2:4]))
            return
        repository, _, rest = path.partition("/resolve/")
        name = rest.partition("/")[2]
        content = self.repositories.get(repository, {}).get(name)
        if content is None:
            self._refuse(request, 404, "EntryNotFound" if repository in self.repositories else "RepoNotFound")
        elif name in self._broken and request.command == "GET":
            self._refuse(request, 503, "")
        else:
            self._send(request, name, content)

    def _describe(self, request: BaseHTTPRequestHandler, repository: str) -> None:
        if repository not in self.repositories:
            self._refuse(request, 404, "RepoNotFound")
            return
        siblings: list[dict[str, Any]] = []
        for name, content in self.repositories[repository].items():
            size = self.sizes.get(name, len(content))
            entry: dict[str, Any] = {"rfilename": name, "size": size, "blobId": git_hash(content)}
            if is_large(name):
                entry["lfs"] = {"sha256": sha256(content), "size": size, "pointerSize": 134}
            siblings.append(entry)
        body = json.dumps({"id": repository, "sha": REVISION, "siblings": siblings}).encode()
        request.send_response(200)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def _refuse(self, request: BaseHTTPRequestHandler, status: int, code: str) -> None:
        request.send_response(status)
        request.send_header("Content-Length", "0")
        if code:
            request.send_header("X-Error-Code", code)
        request.end_headers()

    def _send(self, request: BaseHTTPRequestHandler, name: str, content: bytes) -> None:
        start = int((request.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        body = content[start:]
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(body)))
        request.send_header("Accept-Ranges", "bytes")
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        request.send_header("X-Repo-Commit", REVISION)
        request.send_header("ETag", f'"{sha256(content) if is_large(name) else git_hash(content)}"')
        request.end_headers()
        if request.command == "HEAD":
            return
        if name in self.corrupt:
            body = bytes(len(body))
        if name in self.cut:
            body = body[: self.cut[name]]
            self._broken.add(name)
            request.close_connection = True
        self.served.append(Served(request.command, name, start, len(body), request.headers.get("Authorization")))
        request.wfile.write(body)


def is_large(name: str) -> bool:
    """Return whether the hub stores a file in LFS."""
    return name.endswith((".safetensors", ".model"))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
