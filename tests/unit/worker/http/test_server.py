"""Test a port that anybody can connect to: what a client can do to it, without effect on the others."""

import contextlib
import http.client
import re
import resource
import socket
import subprocess
import sys
import threading
import time
from http import HTTPStatus

import pytest

from ltx_worker.http import server as http_server
from ltx_worker.http.files import FileServer
from ltx_worker.http.server import CONNECTIONS, HEAD_LIMIT, PER_ADDRESS, BoundedHandler, BoundedServer, ServerThread
from ltx_worker.observe.metrics import Metrics
from ltx_worker.threads.watched import Threads
from tests.integration.servers import free_port


class Hello(BoundedHandler):
    """Answers /slow when it is told to, and sends a line at once for /trusted."""

    let_go = threading.Event()

    def do_GET(self):  # noqa: N802
        if self.path == "/trusted":
            self.server.trust(self.request)
            self.let_go.wait(120)
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")


@pytest.fixture
def serve():
    """Start one, with so many connections."""
    running = []
    Hello.let_go.clear()

    def start(**limits):
        server = BoundedServer(("127.0.0.1", 0), Hello, **limits)
        server.timeout = 0.02  # so that it stops soon
        thread = ServerThread(server, "hello")
        thread.start()
        running.append(thread)
        return server

    yield start
    Hello.let_go.set()
    for thread in running:
        thread.stop()
    wait_for(lambda: not any(thread._server._open for thread in running))


def wait_for(condition, timeout=60):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def connect(server, source="127.0.0.1"):
    return socket.create_connection(server.server_address, timeout=60, source_address=(source, 0))


def ask(server, request=b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", source="127.0.0.1"):
    """Return the whole answer; nothing if the connection is cut."""
    with connect(server, source) as client, contextlib.suppress(ConnectionError):
        client.sendall(request)
        return b"".join(iter(lambda: client.recv(65536), b""))
    return b""


REQUESTS = {
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n": 200,
    b"GET / HTTP/1.0\r\n\r\n": 200,
    b"GET / HTTP/1.1\nHost: a\n\n": 200,
    b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n": 200,
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n": 200,  # one answer
    b"GET http://[ HTTP/1.1\r\nHost: a\r\n\r\n": 200,
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n": 501,
    b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n": 501,
    b"\x16\x03\x01\x02\x00\x01\x00 tls\r\n\r\n": 400,
    b"GET / HTTP/9.9\r\nHost: a\r\n\r\n": 505,
    b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n": 501,
    b"GET / HTTP/x\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n": 431,
    b"GET /" + b"a" * HEAD_LIMIT + b" HTTP/1.1\r\n": 431,
    b"GET / HTTP/1.1\r\nA: " + b"b" * HEAD_LIMIT: 431,
}


@pytest.mark.parametrize("request_", REQUESTS, ids=range(len(REQUESTS)))
def test_every_request_has_one_answer_and_the_connection_ends(request_, serve):
    server = serve()
    answer = ask(server, request_)
    assert int(re.match(rb"HTTP/1\.1 (\d+)", answer)[1]) == REQUESTS[request_]
    assert answer.count(b"HTTP/1.1") == answer.count(b"Connection: close") == 1
    assert b"Python" not in answer


def drip(client):
    """Send a byte now and then, of a request that never ends."""
    with contextlib.suppress(OSError):
        for byte in b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 1000:
            client.send(bytes([byte]))
            time.sleep(0.01)


@pytest.mark.parametrize("said", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: a\r\n", drip])
def test_who_does_not_finish_a_request_is_let_go(said, serve, monkeypatch, caplog):
    monkeypatch.setattr(http_server, "HEAD_TIMEOUT", 0.3)
    server = serve()
    with connect(server) as client:
        began = time.monotonic()
        if said is drip:
            threading.Thread(target=drip, args=(client,), daemon=True).start()
        else:
            client.sendall(said)
        with contextlib.suppress(ConnectionError):
            assert client.recv(100) == b""
        assert 0.2 < time.monotonic() - began < 100
    assert caplog.text == ""


def test_who_does_not_read_is_let_go(serve, monkeypatch):
    monkeypatch.setattr(http_server, "SEND_TIMEOUT", 0.3)
    monkeypatch.setattr(Hello, "do_GET", lambda handler: handler.wfile.write(b"x" * 50_000_000))
    server = serve()
    with connect(server) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        wait_for(lambda: server._open)
        wait_for(lambda: not server._open)


def test_idle_connections_keep_nobody_out(serve):
    """However many there are: the oldest one is closed."""
    server = serve()
    with contextlib.ExitStack() as stack:
        for _ in range(3 * CONNECTIONS):
            stack.enter_context(connect(server))
            assert len(server._open) <= CONNECTIONS
        assert ask(server).endswith(b"hello")
        assert ask(server, source="127.0.0.2").endswith(b"hello")
        assert len([thread for thread in threading.enumerate() if "process_request" in thread.name]) <= CONNECTIONS
        for number in range(3 * CONNECTIONS):  # of many machines
            stack.enter_context(connect(server, f"127.0.1.{number + 1}"))
        assert ask(server).endswith(b"hello")
        assert len(server._open) <= CONNECTIONS


def test_one_address_has_its_share(serve):
    server = serve()
    with contextlib.ExitStack() as stack:
        quiet = stack.enter_context(connect(server, "127.0.0.2"))
        wait_for(lambda: len(server._open) == 1)
        for _ in range(2 * CONNECTIONS):
            stack.enter_context(connect(server))
        wait_for(lambda: len(server._open) == 1 + PER_ADDRESS)
        quiet.sendall(b"GET / HTTP/1.1\r\n\r\n")  # another's flood did not cost it its place
        assert quiet.recv(1000).startswith(b"HTTP/1.1 200")


def test_who_may_have_it_is_not_cut_off_and_the_next_is_told(serve, monkeypatch):
    server = serve(connections=3, per_address=2)
    with contextlib.ExitStack() as stack:
        trusted = [stack.enter_context(connect(server)) for _ in range(2)]
        for client in trusted:
            client.sendall(b"GET /trusted HTTP/1.1\r\n\r\n")
        wait_for(lambda: sum(it.trusted for it in server._open.values()) == 2)
        assert ask(server).startswith(b"HTTP/1.1 503")
        assert ask(server, source="127.0.0.2").endswith(b"hello")
        Hello.let_go.set()
        for client in trusted:
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
    wait_for(lambda: not server._open)
    assert ask(server).endswith(b"hello")


def test_without_a_free_descriptor_it_does_not_spin(serve, monkeypatch, caplog):
    server = serve()
    calls = []

    def accept():
        calls.append(1)
        raise OSError(24, "Too many open files")

    well = server.socket
    methods = {"close": well.close, "fileno": well.fileno, "gettimeout": well.gettimeout}
    monkeypatch.setattr(server, "socket", type("S", (), {"accept": staticmethod(accept), **methods})())
    with connect(server):
        time.sleep(0.5)
    assert 1 <= len(calls) <= 8
    assert "Too many open files" in caplog.text


@pytest.mark.lane("machine")
def test_an_address_of_ipv6(serve):
    try:
        server = BoundedServer(("::1", 0), Hello)
    except OSError:
        pytest.skip("there is no IPv6 here")
    thread = ServerThread(server, "hello")
    thread.start()
    connection = http.client.HTTPConnection("::1", server.server_address[1], timeout=60)
    connection.request("GET", "/")
    assert connection.getresponse().read() == b"hello"
    connection.close()
    thread.stop()


@pytest.mark.parametrize("server", ["files", "metrics"])
def test_a_server_may_be_stopped_before_its_thread_does_anything(server, tmp_path, monkeypatch):
    begins, at_work = threading.Event(), Threads.at_work

    def late(self, *arguments):
        begins.wait(120)
        return at_work(self, *arguments)

    monkeypatch.setattr(Threads, "at_work", late)
    port = free_port()
    if server == "files":
        served = FileServer(None, tmp_path, address="127.0.0.1", port=port, url="http://here")
        served.start()
    else:
        served = Metrics("pocket")
        assert served.serve("127.0.0.1", port) == ""
    stopping = threading.Thread(target=served.stop, daemon=True)
    stopping.start()
    time.sleep(0.1)
    begins.set()
    stopping.join(120)
    assert not stopping.is_alive()
    with socket.create_server(("127.0.0.1", port)):  # is free again
        served.stop()  # and changes nothing


@pytest.mark.parametrize(("soft", "hard", "raised"), [(256, 0, 4096), (256, 256, 256), (64, 300, 300), (4097, 0, 4097)])
def test_the_limit_of_open_files_is_raised_as_far_as_it_may_be(soft, hard, raised):
    """hard: 0 for this machine's own."""
    hard = hard or resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
from ltx_worker.machine.open_files import raise_limit
print(raise_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(raised), str(raised), str(hard)]
