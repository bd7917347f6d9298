"""Test download links, and servers that answer with something else: no other place, no more bytes or time."""

import contextlib
import gzip
import hashlib
import http.server
import socket
import socketserver
import threading
import time

import pytest

from ltx_client.shared.storage import download_links
from ltx_client.shared.storage.download_links import fetch_link
from ltx_client.shared.storage.store import Storage, StorageError

VIDEO = b"video" * 2000
SIZE = len(VIDEO)
DIGEST = hashlib.sha256(VIDEO).hexdigest()
KEY = "signature=5ecret"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def answer(request):
    """Start a server that reads a request and sends an answer; return its port, and the requests."""
    servers = []

    def start(send, host="127.0.0.1"):
        asked = []

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                asked.append(self.request.recv(65536))
                with contextlib.suppress(OSError):
                    send(self.request)

        class Server(socketserver.ThreadingTCPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
            daemon_threads = True
            block_on_close = False

        server = Server((host, 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
        return server.server_address[1], asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def head(status="200 OK", *headers):
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode()


def whole(client):
    client.sendall(head("200 OK", f"Content-Length: {len(VIDEO)}") + VIDEO)


def fetch(link, target, size=SIZE):
    fetch_link(link, "job-1.1.mp4", target, DIGEST, size)


def refused(link, tmp_path):
    """Return why it was refused; check that nothing remains, and that the link is not shown."""
    with pytest.raises(StorageError) as raised:
        fetch(link, tmp_path / "out.mp4")
    assert list(tmp_path.iterdir()) == []
    text = str(raised.value)
    assert "5ecret" not in text
    assert text.isprintable()
    assert len(text) < 400
    return text


def test_the_video_of_a_link(answer, tmp_path):
    port, asked = answer(whole)
    fetch(f"http://127.0.0.1:{port}/videos/a?{KEY}", tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_bytes() == VIDEO
    assert b"Accept-Encoding: identity" in asked[0]


@pytest.mark.lane("machine")
def test_a_link_to_an_address_of_ipv6(answer, tmp_path):
    try:
        port, _ = answer(whole, "::1")
    except OSError:
        pytest.skip("there is no IPv6 here")
    fetch(f"http://[::1]:{port}/a", tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_bytes() == VIDEO


NO_LINKS = [
    "",
    "/etc/passwd",
    "file:///etc/passwd",
    "ftp://127.0.0.1/a",
    "data:video/mp4;base64,dmlkZW8=",
    "gopher://127.0.0.1/a",
    "http:",
    "http:///a",
    "http://:80/a",
    "http://127.0.0.1:99999/a",
    "http://127.0.0.1:0/a",
    "http://127.0.0.1:x/a",
    "http://[::1/a",
    "http://ann:5ecret@127.0.0.1/a",
    "http://127.0.0.1@elsewhere/a",
    "http://127.0.0.1/a b",
    "http://127.0.0.1/a\r\nHost: elsewhere",
    "http://127.0.0.1/\x00",
    "ht\ntp://127.0.0.1/a",
    "http://127.0.0.1/\x1b[2J",
    "http://127.0.0.1/\u202e",
    "http://bücher/a",
    "http://127.0.0.1/" + "a" * 10000,
]


@pytest.mark.parametrize("link", NO_LINKS, ids=range(len(NO_LINKS)))
def test_what_is_no_link_is_not_followed(link, tmp_path, monkeypatch):
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: pytest.fail("it was followed"))
    assert "it does not lead to the web" in refused(link, tmp_path)


@pytest.mark.parametrize("host", ["a" * 64, "a..b", "-", "%00", "127.0.0.1%0d%0a", "nowhere.invalid", "0x7f.1:1"])
def test_hosts_that_are_none(host, tmp_path):
    assert "cannot read job-1.1.mp4 at " in refused(f"http://{host}/a?{KEY}", tmp_path)


@pytest.mark.parametrize(
    "status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent", "300 x"]
)
@pytest.mark.parametrize(
    "where",
    ["ftp://127.0.0.1:{port}/a", "data:,video", "file:///etc/passwd", "http://127.0.0.1:{port}/a", "/a", "//a/b"],
)
def test_no_redirect_is_followed(status, where, answer, tmp_path):
    other, asked = answer(whole)
    port, _ = answer(lambda client: client.sendall(head(status, f"Location: {where.format(port=other)}")))
    text = refused(f"http://127.0.0.1:{port}/a?{KEY}", tmp_path)
    assert f"{status[:3]} " in text
    assert "not followed" in text
    assert asked == []


def forever(piece, pause=0.0):
    def send(client):
        while True:
            client.sendall(piece)
            time.sleep(pause)

    return send


def after(start, then):
    def send(client):
        client.sendall(start)
        then(client)

    return send


MUCH = b"x" * 65536
CHUNKED = head("200 OK", "Transfer-Encoding: chunked")
BAD = {
    "more than its size": (after(head(), forever(MUCH)), "has more than the 10,000 bytes"),
    "more, in chunks without end": (after(CHUNKED, forever(b"10000\r\n" + MUCH + b"\r\n")), "has more than"),
    "more, as it says": (after(head("200 OK", "Content-Length: 300000000"), forever(MUCH)), "has more than"),
    "less": (lambda c: c.sendall(head("200 OK", "Content-Length: 10000") + b"short"), "SHA-256 differs|cannot read"),
    "nothing": (lambda c: None, "cannot read"),
    "other bytes": (lambda c: c.sendall(head() + bytes(len(VIDEO))), "SHA-256 differs"),
    "a bomb": (
        lambda c: c.sendall(head("200 OK", "Content-Encoding: gzip") + gzip.compress(bytes(10**7))),
        "SHA-256 differs|has more",
    ),
    "headers without end": (after(b"HTTP/1.1 200 OK\r\n", forever(b"A: b\r\n" * 100)), "the answer is not HTTP"),
    "a line without end": (forever(MUCH), "the answer is not HTTP"),
    "a chunk size that is none": (lambda c: c.sendall(CHUNKED + b"zz\r\n"), "the answer is not HTTP"),
    "a chunk size without end": (after(CHUNKED, forever(b"0" * 65536)), "the answer is not HTTP"),
    "escape codes": (lambda c: c.sendall(b"\x1b[2J\x1b]0;x\x07\r\n\r\n"), "the answer is not HTTP"),
    "escape codes as a reason": (lambda c: c.sendall(head("404 \x1b[2J" + "x" * 9999)), "404 Not Found"),
    "a status of its own": (lambda c: c.sendall(head("799 What")), "799 an unknown status"),
    "not any more": (lambda c: c.sendall(head("410 Gone")), "some days only"),
    "not now": (lambda c: c.sendall(head("503 x", "Retry-After: 10")), "503 Service Unavailable"),
}


@pytest.mark.parametrize("kind", BAD)
def test_an_answer_that_is_not_the_video(kind, answer, tmp_path, monkeypatch):
    send, why = BAD[kind]
    port, _ = answer(send)
    written = []
    write_at = tmp_path / "out.mp4"
    watching = threading.Event()

    def watch():
        while not watching.wait(0.002):
            with contextlib.suppress(FileNotFoundError):  # removed between the two calls
                written.extend(path.stat().st_size for path in write_at.parent.glob(".*.part"))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        with pytest.raises(StorageError, match=why):
            fetch(f"http://127.0.0.1:{port}/a?{KEY}", write_at)
    finally:
        watching.set()
        thread.join()
    assert max(written, default=0) < 4 * download_links.CHUNK
    assert refused(f"http://127.0.0.1:{port}/a?{KEY}", tmp_path)


SLOW = {
    "before the answer": lambda c: time.sleep(100),
    "in the answer's first line": forever(b"H", 0.05),
    "in its headers": after(b"HTTP/1.1 200 OK\r\nA: ", forever(b"b", 0.05)),
    "without an end of answers before it": forever(b"HTTP/1.1 100 Continue\r\n\r\n", 0.01),
    "in the video": after(head("200 OK", f"Content-Length: {len(VIDEO)}"), forever(b"v", 0.05)),
    "in a chunk's size": after(CHUNKED, forever(b"0", 0.05)),
    "after the video": after(CHUNKED + b"%x\r\n%s\r\n0\r\n" % (len(VIDEO), VIDEO), forever(b"a: b\r\n", 0.05)),
}


@pytest.mark.parametrize("where", SLOW)
def test_a_server_that_drips(where, answer, tmp_path, monkeypatch):
    monkeypatch.setattr(download_links, "GRACE", 0.5)
    port, _ = answer(SLOW[where])
    began = time.monotonic()
    assert "too long for its size" in refused(f"http://127.0.0.1:{port}/a?{KEY}", tmp_path)
    assert time.monotonic() - began < 100


def test_a_server_that_drips_while_encryption_is_agreed(answer, tmp_path, monkeypatch):
    monkeypatch.setattr(download_links, "GRACE", 0.5)
    port, _ = answer(after(b"\x16\x03\x03\x3f\xff", forever(b"\x02", 0.05)))
    assert "too long" in refused(f"https://127.0.0.1:{port}/a?{KEY}", tmp_path)


def test_a_larger_video_has_more_time(answer, tmp_path, monkeypatch):
    monkeypatch.setattr(download_links, "GRACE", 0.1)
    monkeypatch.setattr(download_links, "SLOWEST", 100)  # 100 s for 10 kB
    halves = [VIDEO[:5000], VIDEO[5000:]]
    port, _ = answer(after(head() + halves[0], after(b"", lambda c: (time.sleep(0.5), c.sendall(halves[1])))))
    fetch(f"http://127.0.0.1:{port}/a", tmp_path / "out.mp4")
    with pytest.raises(StorageError, match="refused"):  # a size that somebody made up
        fetch("http://127.0.0.1:1/a", tmp_path / "other.mp4", 10**30)


def test_no_password_is_sent_to_who_asks_for_one(answer, tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    netrc = tmp_path / "home" / ".netrc"
    netrc.write_text("machine 127.0.0.1 login ann password hush\n")
    monkeypatch.setenv("HOME", str(netrc.parent))
    (tmp_path / "out").mkdir()
    port, asked = answer(lambda c: c.sendall(head("401 x", "WWW-Authenticate: Basic realm=a")))
    assert "401 Unauthorized" in refused(f"http://127.0.0.1:{port}/a?{KEY}", tmp_path / "out")
    assert len(asked) == 1
    assert b"Authorization" not in asked[0]


def test_a_proxy_of_the_environment_is_used(answer, tmp_path, monkeypatch):
    proxy, asked = answer(whole)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy}")
    fetch("http://mac-1.invalid/a", tmp_path / "out.mp4")
    assert asked[0].startswith(b"GET http://mac-1.invalid/a HTTP/1.1\r\n")
    port, direct = answer(whole)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    fetch(f"http://127.0.0.1:{port}/a", tmp_path / "out.mp4")
    assert len(direct) == 1
    monkeypatch.setenv("https_proxy", f"socks5://127.0.0.1:{proxy}")
    assert "cannot read" in refused_elsewhere(f"https://mac-1.invalid/a?{KEY}", tmp_path)


def refused_elsewhere(link, tmp_path):
    (tmp_path / "empty").mkdir()
    return refused(link, tmp_path / "empty")


def test_a_storage_too_gives_no_more_than_the_size(tmp_path):
    (tmp_path / "storage").mkdir()
    (tmp_path / "storage" / "a.mp4").write_bytes(bytes(300 * 2**20 // 64))
    with pytest.raises(StorageError, match="has more than the 10,000 bytes"):
        Storage(str(tmp_path / "storage")).get("a.mp4", tmp_path / "out.mp4", DIGEST, len(VIDEO))
    assert not (tmp_path / "out.mp4").exists()


def test_the_handler_of_a_plain_server_works_too(tmp_path):
    """Python's own handler closes the connection at the video's end."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(VIDEO)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        fetch(f"http://127.0.0.1:{server.server_port}/a", tmp_path / "out.mp4")
        server.shutdown()
    assert (tmp_path / "out.mp4").read_bytes() == VIDEO
