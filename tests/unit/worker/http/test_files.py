"""Test download links: what one gives access to, and that a changed, forged or old one gives none."""

import http.client
import logging
import socket
import stat
from urllib.parse import parse_qs, urlsplit

import pytest

from ltx_client.shared.storage.store import StorageError
from ltx_worker.http.files import FileServer
from tests.integration.servers import free_port
from tests.storages import made

NAME, OTHER, POSTER = "job-1.2.mp4", "job-2.1.mp4", "job-1.2.jpg"


@pytest.fixture
def storage(tmp_path):
    folder = tmp_path / "storage"
    folder.mkdir()
    for name in (NAME, OTHER, POSTER, "job-1.2.json", "secret"):
        (folder / name).write_bytes(name.encode() * 1000)
    (tmp_path / "outside-1.1.mp4").write_bytes(b"outside")
    return made(str(folder))


@pytest.fixture
def serve(storage, tmp_path):
    """Start a server for a machine's home."""
    running = []

    def start(home="home"):
        port = free_port()
        (tmp_path / home).mkdir(exist_ok=True)
        files = FileServer(
            storage, tmp_path / home, address="127.0.0.1", port=port, url=f"http://127.0.0.1:{port}/studio/"
        )
        files.start()
        running.append(files)
        return files

    yield start
    for files in running:
        files.stop()


def get(files, path, query=""):
    """Return status and body; the path is sent as it is, without a client's normalization."""
    connection = http.client.HTTPConnection("127.0.0.1", files._port, timeout=60)
    connection.request("GET", f"{path}?{query}")
    with connection.getresponse() as reply:
        return reply.status, reply.read()


def link_of(files, name=NAME, seconds=60):
    """Return the link's path on the server itself, without the URL's prefix, and its query."""
    link = files.link(name, seconds)
    assert link.startswith(f"http://127.0.0.1:{files._port}/studio/videos/")
    parts = urlsplit(link)
    return parts.path.removeprefix("/studio"), parts.query


def test_a_link_opens_its_video_and_no_other(serve):
    files = serve()
    path, query = link_of(files)
    assert get(files, path, query) == (200, NAME.encode() * 1000)
    assert get(files, f"/videos/{OTHER}", query)[0] == 403
    for other in ("secret", "job-1.2.json", "", "../outside-1.1.mp4", "%2e%2e/outside-1.1.mp4", f"../storage/{NAME}"):
        signed = link_of(files, other)[1]  # even one that was signed
        assert get(files, f"/videos/{other}", signed)[0] == 404, other
    for other in ("/", "/metrics", f"/{NAME}", f"/videos/../videos/{NAME}", f"/videos/{NAME}/"):
        assert get(files, other, query)[0] == 404, other


@pytest.mark.parametrize(("name", "media_type"), [(NAME, "video/mp4"), (POSTER, "image/jpeg")])
def test_each_file_has_a_link_of_its_own_and_its_type(serve, name, media_type):
    files = serve()
    path, query = link_of(files, name)
    connection = http.client.HTTPConnection("127.0.0.1", files._port, timeout=60)
    connection.request("GET", f"{path}?{query}")
    with connection.getresponse() as reply:
        assert (reply.status, reply.headers["Content-Type"]) == (200, media_type)
        assert reply.read() == name.encode() * 1000
    (another,) = {NAME, POSTER} - {name}
    assert get(files, f"/videos/{another}", query)[0] == 403


def test_what_is_forged_is_forbidden_and_what_is_old_is_gone(serve):
    files = serve()
    path, query = link_of(files)
    (expires,), (signature,) = parse_qs(query)["expires"], parse_qs(query)["signature"]
    forged = [
        "",
        f"expires={expires}",
        f"signature={signature}",
        f"expires={int(expires) + 1}&signature={signature}",
        f"expires={expires}&signature={signature[:-1]}{'0' if signature[-1] != '0' else '1'}",
        f"expires={expires}&signature={signature.upper()}x",
        f"expires={expires}&signature=%ff%00",
        f"expires=&signature={signature}",
    ]
    for query_of_another in (*forged, link_of(serve("another home"))[1]):
        assert get(files, path, query_of_another)[0] == 403, query_of_another
    assert get(files, path, link_of(files, seconds=-1)[1])[0] == 410
    files.storage = None  # of neither is the storage asked
    assert get(files, path, "expires=1&signature=1")[0] == 403


def test_a_link_outlives_a_restart_and_its_key_is_the_owners_alone(serve, tmp_path):
    path, query = link_of(serve())
    assert get(serve(), path, query)[0] == 200
    key = tmp_path / "home" / "link-key"
    assert len(key.read_bytes()) == 64
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_what_is_not_there_is_said_without_a_word_of_where(serve, storage, monkeypatch):
    files = serve()
    path, query = link_of(files, "job-9.1.mp4")
    assert get(files, path, query)[0] == 404

    def away(name):
        raise StorageError(f"cannot look for {name} in the storage {storage.url}")

    monkeypatch.setattr(files.storage, "size", away)
    status, body = get(files, path, query)
    assert status == 503
    assert storage.url.encode() not in body


def test_a_client_that_sends_nonsense_or_goes_is_no_traceback(serve, caplog, capfd):
    caplog.set_level(logging.INFO)
    files = serve()
    path, query = link_of(files)
    for line in (b"\x16\x03\x01 nonsense\r\n\r\n", f"GET {path}?{query} HTTP/1.1\r\n\r\n".encode(), b""):
        with socket.create_connection(("127.0.0.1", files._port)) as client:
            client.sendall(line)
    assert get(files, path, query)[0] == 200
    assert parse_qs(query)["signature"][0] not in caplog.text
    assert "Traceback" not in capfd.readouterr().err


WHOLE = NAME.encode() * 1000
RANGES = {
    "bytes=0-": (206, WHOLE),
    "bytes=0-0": (206, WHOLE[:1]),
    "bytes=5-9": (206, WHOLE[5:10]),
    "bytes=10999-": (206, WHOLE[-1:]),
    "bytes=-7": (206, WHOLE[-7:]),
    "bytes=-99999": (206, WHOLE),
    "bytes=5-999999999": (206, WHOLE[5:]),
    "bytes=11000-": (416, b""),
    "bytes=99999-999999": (416, b""),
    "bytes=-0": (416, b""),
    "bytes=9-5": (200, WHOLE),
    "bytes=-": (200, WHOLE),
    "bytes=0-1,5-9": (200, WHOLE),  # several at once
    "bytes=0-1,0-1,0-1,0-1,0-1": (200, WHOLE),
    "bytes=1e3-": (200, WHOLE),
    "bytes=" + "9" * 5000 + "-": (200, WHOLE),
    "bytes=\u0663-": (200, WHOLE),
    "lines=1-2": (200, WHOLE),
}


@pytest.mark.parametrize("asked", RANGES, ids=range(len(RANGES)))
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_players_ask_for_parts(asked, method, serve, monkeypatch):
    monkeypatch.setattr("ltx_client.shared.storage.store.CHUNK", 1000)
    files = serve()
    path, query = link_of(files)
    status, part = RANGES[asked]
    connection = http.client.HTTPConnection("127.0.0.1", files._port, timeout=60)
    connection.request(method, f"{path}?{query}", headers={"Range": asked.encode()})
    with connection.getresponse() as reply:
        assert (reply.status, reply.read()) == (status, part if method == "GET" else b"")
        assert int(reply.headers["Content-Length"]) == len(part)
        assert reply.headers["Accept-Ranges"] == "bytes"
        if status == 206:
            start = WHOLE.rindex(part) if asked.startswith(("bytes=-", "bytes=10999")) else int(asked[6:].split("-")[0])
            assert reply.headers["Content-Range"] == f"bytes {start}-{start + len(part) - 1}/11000"
        if status == 416:
            assert reply.headers["Content-Range"] == "bytes */11000"


def test_a_part_of_what_was_another_video_is_not_sent(serve):
    files = serve()
    path, query = link_of(files)
    for tag, status in ((f'"{NAME}"', 206), (f'"{OTHER}"', 200), ("Sun, 29 Nov 2026 06:00:00 GMT", 200)):
        connection = http.client.HTTPConnection("127.0.0.1", files._port, timeout=60)
        connection.request("GET", f"{path}?{query}", headers={"Range": "bytes=1-2", "If-Range": tag})
        with connection.getresponse() as reply:
            assert reply.status == status
            assert reply.headers["ETag"] == f'"{NAME}"'
            reply.read()


def test_without_a_link_there_is_no_part_either(serve):
    files = serve()
    for method in ("GET", "HEAD"):
        connection = http.client.HTTPConnection("127.0.0.1", files._port, timeout=60)
        connection.request(method, f"/videos/{NAME}", headers={"Range": "bytes=0-1"})
        with connection.getresponse() as reply:
            assert reply.status == 403
            assert reply.read() == (b"Forbidden\n" if method == "GET" else b"")


def test_nobody_is_linked_to_a_server_that_does_not_run(storage, tmp_path, caplog):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        files = FileServer(storage, tmp_path, address="127.0.0.1", port=taken.getsockname()[1], url="http://here")
        files.start()
        assert files.link(NAME, 60) is None
        files.stop()
    assert "and have no download links" in caplog.text
    off = FileServer(storage, tmp_path / "nowhere", address="127.0.0.1", port=0, url="http://here")
    off.start()
    assert off.link(NAME, 60) is None
