"""Test what others may put into a storage that is a folder, in place of a file or a folder.

Nothing is followed, and nothing waits for it.
"""

import contextlib
import hashlib
import os
import socket

import pytest
from click.testing import CliRunner

from ltx_client.cli import main
from ltx_client.shared.storage.marker import MARKER
from ltx_client.shared.storage.store import DamagedFile, Storage, StorageAway, StorageError, input_name
from ltx_worker.http.files import FileServer
from tests.integration.servers import free_port
from tests.storages import made
from tests.unit.worker.http.test_files import get, link_of

SECRET = b"what a worker may read, and nobody else"
CONTENT = b"frames" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
VIDEO = "job-1.2.mp4"
NAMES = [VIDEO, input_name(DIGEST), "resume/job-1.2.0"]


pytestmark = pytest.mark.timeout(120)
"""Whoever waits for a pipe waits for ever."""


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "outside" / "secret"
    path.parent.mkdir()
    path.write_bytes(SECRET)
    return path


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "store").mkdir()
    made(tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture(params=["path", "file", "cache", "linked root"])
def storage(request, folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    urls = {
        "path": str(folder),
        "file": f"file://{folder}",
        "cache": f"simplecache::file://{folder}",
        "linked root": str(tmp_path / "link"),
    }
    return Storage(urls[request.param])


def a_socket(path, _):
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(path.parent):  # the path has to be a short one
        server.bind(path.name)


STRANGERS = {
    "a symbolic link": lambda path, secret: path.symlink_to(secret),
    "a symbolic link to a file of the storage": lambda path, _: path.symlink_to(path.parent / "other"),
    "a symbolic link to itself": lambda path, _: path.symlink_to(path.name),
    "a symbolic link to a device": lambda path, _: path.symlink_to("/dev/zero"),
    "a named pipe": lambda path, _: os.mkfifo(path),
    "a socket": a_socket,
    "a folder": lambda path, _: path.mkdir(),
}


@pytest.fixture(params=STRANGERS)
def stranger(request, secret):
    """Put such a thing at a path; return what it is called."""

    def put(path):
        path.parent.mkdir(exist_ok=True)
        (path.parent / "other").write_bytes(SECRET)
        STRANGERS[request.param](path, secret)
        return " ".join(request.param.split()[:3])

    return put


@pytest.mark.parametrize("name", NAMES)
def test_it_is_not_read_and_a_sentence_says_what_it_is(storage, folder, stranger, secret, source, tmp_path, name):
    what = stranger(folder / name)
    for use in (
        lambda: storage.size(name),
        lambda: storage.exists(name),
        lambda: list(storage.chunks(name)),
        lambda: storage.get(name, tmp_path / "got", hashlib.sha256(SECRET).hexdigest()),
    ):
        with pytest.raises(DamagedFile, match=rf"{name} is {what}( to a)?\S*, not a file"):
            use()
    assert not (tmp_path / "got").exists()
    parent, _, base = name.rpartition("/")
    assert base not in storage.names(parent)
    assert not storage.holds(name, hashlib.sha256(SECRET).hexdigest(), range(1000))
    if what == "a folder":
        with pytest.raises(StorageError):
            storage.put(source, name)
        with pytest.raises(StorageError):
            storage.remove(name)
        assert storage.names(parent) == sorted({"other", *([MARKER] if not parent else [])})
        return
    storage.put(source, name, DIGEST)
    assert not (folder / name).is_symlink()
    storage.get(name, tmp_path / "got", DIGEST)
    (folder / name).unlink()
    stranger(folder / name)
    storage.remove(name)
    assert not (folder / name).is_symlink() and not (folder / name).exists()
    assert secret.read_bytes() == SECRET


@pytest.mark.parametrize("inside", ["inputs", "resume"])
@pytest.mark.parametrize("what", ["a symbolic link", "a named pipe", "a file"])
def test_no_folder_leads_out_of_it(storage, folder, secret, source, tmp_path, inside, what):
    outside = secret.parent
    makers = {
        "a symbolic link": lambda path: path.symlink_to(outside),
        "a named pipe": os.mkfifo,
        "a file": lambda path: path.touch(),
    }
    makers[what](folder / inside)
    (outside / ".secret.00.part").touch()
    before = sorted(outside.iterdir())
    name = f"{inside}/secret"
    for use in (
        lambda: storage.size(name),
        lambda: list(storage.chunks(name)),
        lambda: storage.names(inside),
        lambda: storage.unfinished(inside),
        lambda: storage.put(source, name),
        lambda: storage.put(source, f"{inside}/new"),
        lambda: storage.remove(name),
        lambda: storage.remove_unfinished(name),
    ):
        with pytest.raises(StorageError, match=f"{inside} is {what}, not a folder"):
            use()
    assert not storage.holds(name, hashlib.sha256(SECRET).hexdigest(), range(1000))
    assert sorted(outside.iterdir()) == before
    assert secret.read_bytes() == SECRET


def test_a_marker_that_is_no_file_is_none(storage, folder, stranger, source):
    (folder / MARKER).rename(folder / "real")
    what = stranger(folder / MARKER)
    for use in (storage.identify, storage.check, lambda: storage.put(source, "a.mp4"), lambda: storage.remove("a.mp4")):
        with pytest.raises(StorageAway, match=rf"{MARKER} is {what}( to a)?\S*, not a file"):
            use()
    with pytest.raises(StorageError, match=rf"cannot make the storage .* is {what}"):
        storage.init()


def test_the_file_server_gives_away_no_file_but_videos(folder, stranger, tmp_path):
    stranger(folder / VIDEO)
    (tmp_path / "home").mkdir()
    server = FileServer(
        made(folder), tmp_path / "home", address="127.0.0.1", port=free_port(), url="http://127.0.0.1:1/studio"
    )
    server._url = f"http://127.0.0.1:{server._port}/studio"
    server.start()
    try:
        status, body = get(server, *link_of(server, VIDEO))
    finally:
        server.stop()
    assert status in (404, 503)
    assert SECRET not in body


@pytest.mark.parametrize("command", [("storage", "check"), ("storage", "init"), ("doctor",)])
def test_no_command_waits_for_a_pipe(folder, monkeypatch, tmp_path, command):
    (folder / MARKER).unlink()
    os.mkfifo(folder / MARKER)
    monkeypatch.setenv("LTX_STORAGE_URL", str(folder))
    monkeypatch.setenv("LTX_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LTX_BROKER_URL", "redis://127.0.0.1:1/0")
    done = CliRunner().invoke(main, command)
    assert done.exit_code in (1, 69), done.output
    assert f"{MARKER} is a named pipe, not a file" in done.output
