"""Test one contract for every storage: a file appears whole under its name, or not at all."""

import errno
import hashlib
import http.server
import os
import re
import shlex
import stat
import threading
import time
import uuid
from pathlib import Path

import pytest
from click.testing import CliRunner

from ltx_client.cli import main
from ltx_client.shared.doctor.checks import Level
from ltx_client.shared.doctor.storage_checks import StorageChecks
from ltx_client.shared.storage import folder as storage_folder
from ltx_client.shared.storage.download_links import fetch_link
from ltx_client.shared.storage.marker import MARKER
from ltx_client.shared.storage.store import DamagedSource, Storage, StorageAway, StorageError, input_name
from tests.s3 import new_bucket, s3_server
from tests.storages import made


@pytest.fixture(scope="module")
def s3():
    with s3_server() as environment:
        yield environment


@pytest.fixture
def bucket(s3, monkeypatch):
    """Return the URL of a folder at s3://, for every program with this process's environment."""
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    return new_bucket(s3)


@pytest.fixture(params=["path", "file", "memory", "s3"])
def unmade(request, tmp_path):
    """Return a place where a storage can be made."""
    if request.param == "s3":
        return request.getfixturevalue("bucket")
    return {
        "path": str(tmp_path / "store"),
        "file": f"file://{tmp_path}/store",
        "memory": f"memory://{uuid.uuid4().hex}",
    }[request.param]


@pytest.fixture
def url(unmade):
    made(unmade)
    return unmade


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(b"frames" * 1000)
    return path


def names_in(url):
    """Return all names there except the marker's, including temporary files'."""
    storage = Storage(url)
    found = storage._fs.ls(storage._root, detail=False) if storage._fs.exists(storage._root) else []
    return sorted({path.rsplit("/", 1)[-1] for path in found} - {MARKER})


def test_what_is_put_can_be_fetched(url, source, tmp_path):
    storage, digest = Storage(url), hashlib.sha256(source.read_bytes()).hexdigest()
    assert storage.size("a.mp4") is None
    for name in ("a.mp4", input_name(digest)):
        assert not storage.exists(name)
        storage.put(source, name)
        assert storage.exists(name)
        storage.get(name, tmp_path / "copy", digest)
        assert (tmp_path / "copy").read_bytes() == source.read_bytes()
        assert (storage.size(name), b"".join(storage.chunks(name))) == (6000, source.read_bytes())
    assert names_in(url) == ["a.mp4", "inputs"]


def test_a_wrong_checksum_delivers_nothing_and_keeps_what_was_there(url, source, tmp_path):
    target = tmp_path / "out" / "copy.mp4"
    target.parent.mkdir()
    target.write_bytes(b"before")
    Storage(url).put(source, "a.mp4")
    with pytest.raises(StorageError, match="SHA-256 differs"):
        Storage(url).get("a.mp4", target, "0" * 64)
    assert [path.name for path in target.parent.iterdir()] == ["copy.mp4"]
    assert target.read_bytes() == b"before"


def test_a_missing_file_is_named(url, tmp_path):
    with pytest.raises(StorageError, match=r"cannot read a\.mp4"):
        Storage(url).get("a.mp4", tmp_path / "copy.mp4", "0" * 64)
    assert not list(tmp_path.glob("*copy*"))


def test_a_target_that_cannot_be_written(url, source, tmp_path):
    Storage(url).put(source, "a.mp4")
    with pytest.raises(FileNotFoundError):
        Storage(url).get("a.mp4", tmp_path / "no" / "copy.mp4", "0" * 64)


def test_put_replaces_and_remove_removes(url, source):
    storage = Storage(url)
    storage.put(source, "a.mp4")
    source.write_bytes(b"other")
    storage.put(source, "a.mp4")
    assert names_in(url) == ["a.mp4"]
    storage.remove("a.mp4")
    storage.remove("a.mp4")
    assert names_in(url) == []


def test_check_leaves_nothing(url):
    Storage(url).check()
    assert names_in(url) == []


@pytest.mark.parametrize("fails", ["write", "read"])
def test_a_check_that_fails_leaves_nothing(url, monkeypatch, fails):
    """On a full disk the file is made, and nothing goes into it."""
    storage = Storage(url)
    pipe_file = storage._fs.pipe_file
    with monkeypatch.context() as full:
        if fails == "read":
            full.setattr(storage, "_read_back", broken)
        else:
            full.setattr(storage._fs, "pipe_file", lambda path, *_: (pipe_file(path, b""), broken()))
            full.setattr(os, "fsync", broken)
        with pytest.raises(StorageError, match=r"cannot write to the storage .*No space left"):
            storage.check()
    assert names_in(url) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES])
def test_a_doctor_knows_a_full_storage_from_a_forbidden_one(tmp_path, monkeypatch, number):
    made(tmp_path / "store")

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(storage_folder, "write_new_at", refuse)
    (finding,) = StorageChecks(str(tmp_path / "store")).storage()
    assert finding.level is Level.FAILURE
    assert ("let this user write" in finding.fix) is (number == errno.EACCES)
    assert ("ltx gc" in finding.fix) is (number != errno.EACCES)


def test_a_put_that_fails_in_the_middle_leaves_nothing(tmp_path, source, monkeypatch):
    storage = made(tmp_path / "store")
    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(StorageError, match=r"could not store a\.mp4"):
        storage.put(source, "a.mp4")
    assert names_in(storage.url) == []


def broken(*_):
    raise OSError(28, "No space left on device")


def test_a_storage_that_cannot_be_written_is_told_at_the_start(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match=r"cannot write to the storage .* it is a file, not a folder"):
        Storage(str(tmp_path / "file" / "store")).check()


def test_an_unknown_kind_of_storage():
    with pytest.raises(StorageError, match="nosuch"):
        Storage("nosuch://bucket")


def test_a_listing_is_never_an_old_one(url, source):
    one, other = Storage(url), Storage(url)
    assert one.names("resume") == other.names("resume") == []
    one.put(source, "resume/a.1.0")
    assert other.names("resume") == ["a.1.0"]
    assert other.exists("resume/a.1.0")
    (entry,) = other.entries("resume")
    assert (entry.name, entry.size) == ("a.1.0", 6000)
    assert entry.modified == pytest.approx(time.time(), abs=60)
    other.remove("resume/a.1.0")
    assert one.names("resume") == []


def test_a_large_file_arrives_whole(url, tmp_path):
    """It is larger than the parts in which object stores take one."""
    path = tmp_path / "large"
    path.write_bytes(os.urandom(1 << 16) * 200)
    Storage(url).put(path, "large.mp4")
    Storage(url).get("large.mp4", tmp_path / "copy", hashlib.sha256(path.read_bytes()).hexdigest())
    assert (tmp_path / "copy").stat().st_size == path.stat().st_size


def test_what_is_cut_short_is_not_taken(url, source, tmp_path):
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    source.write_bytes(source.read_bytes()[:-1])
    Storage(url).put(source, "a.mp4")
    with pytest.raises(StorageError, match="changed or cut short"):
        Storage(url).get("a.mp4", tmp_path / "copy", digest)
    assert not (tmp_path / "copy").exists()


def test_on_a_share_a_file_has_its_name_when_it_is_on_the_disk(tmp_path, source, monkeypatch):
    """A share is a folder: clients of SMB and NFS see a rename at once, and data that is written late, late."""
    storage = made(tmp_path / "store")
    done, flush, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append(os.fstat(handle).st_ino), flush(handle)))
    monkeypatch.setattr(os, "replace", lambda *names, **folders: (done.append(names), replace(*names, **folders)))
    storage.put(source, "a.mp4")
    target = tmp_path / "store" / "a.mp4"
    flushed, (temporary, final), folder = done
    assert (flushed, final, folder) == (target.stat().st_ino, "a.mp4", target.parent.stat().st_ino)
    assert temporary.startswith(".a.mp4.") and temporary.endswith(".part")


def test_a_share_whose_folders_cannot_be_flushed(tmp_path, source, monkeypatch):
    flush = os.fsync

    def refuse_folders(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(22, "Invalid argument")
        flush(handle)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    made(tmp_path / "store").put(source, "a.mp4")
    assert names_in(str(tmp_path / "store")) == ["a.mp4"]


@pytest.mark.parametrize("what", ["check", "put", "get"])
def test_an_object_store_that_is_away_is_a_storage_error(bucket, source, tmp_path, monkeypatch, what):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    storage = Storage(f"s3://away-{what}/videos")  # a name of its own: connections are shared by what is asked for
    storage._reader = storage._fs = type(storage._fs)(skip_instance_cache=True, **storage._fs.storage_options)
    arguments = {"check": (), "put": (source, "a.mp4"), "get": ("a.mp4", tmp_path / "copy", "0" * 64)}[what]
    began = time.monotonic()
    with pytest.raises(StorageError, match=r"could not|cannot") as raised:
        getattr(storage, what)(*arguments)
    assert time.monotonic() - began < 60
    assert "the-storage-key" not in str(raised.value)


def test_a_bucket_that_is_not_there(bucket):
    sentence = (
        r"cannot write to the storage s3://nobodys/videos, which is away: .* ltx storage init s3://nobodys/videos"
    )
    with pytest.raises(StorageError, match=sentence):
        Storage("s3://nobodys/videos").check()


def test_by_a_link_anybody_can_read_one_file(bucket, source, tmp_path, monkeypatch):
    storage, digest = made(bucket), hashlib.sha256(source.read_bytes()).hexdigest()
    storage.put(source, "a.mp4")
    link = storage.sign("a.mp4", 60)
    assert "the-storage-key" not in link
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    fetch_link(link, "a.mp4", tmp_path / "copy", digest, source.stat().st_size)
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    with pytest.raises(StorageError, match="SHA-256 differs"):
        fetch_link(link, "a.mp4", tmp_path / "other", "0" * 64, 10**6)
    with pytest.raises(StorageError, match=r"cannot read a\.mp4 at 127.0.0.1:\d+: 404") as raised:
        fetch_link(link.replace("a.mp4", "b.mp4"), "a.mp4", tmp_path / "other", digest, source.stat().st_size)
    assert "Signature" not in str(raised.value)
    assert not (tmp_path / "other").exists()


def test_there_are_no_links_to_a_folder(tmp_path):
    assert Storage(str(tmp_path)).sign("a.mp4", 60) is None
    assert Storage("memory://x").sign("a.mp4", 60) is None


@pytest.mark.parametrize("link", ["file:///etc/passwd", "ftp://host/a", "/etc/passwd"])
def test_a_link_leads_into_the_web_or_nowhere(link, tmp_path):
    with pytest.raises(StorageError, match="it does not lead to the web"):
        fetch_link(link, "a.mp4", tmp_path / "copy", "0" * 64, 10**6)
    assert not list(tmp_path.iterdir())


class Broken(http.server.BaseHTTPRequestHandler):
    """A body that is shorter than its length says, or that fails."""

    def do_GET(self):
        self.send_response(403 if "old" in self.path else 200, "Forbidden")
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"short")

    def log_message(self, *arguments):
        pass


def test_a_link_that_breaks(tmp_path):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Broken) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        for link, sentence in ((f"{url}/a", "cannot read|SHA-256 differs"), (f"{url}/old?s=secret", "some days only")):
            with pytest.raises(StorageError, match=sentence) as raised:
                fetch_link(link, "a.mp4", tmp_path / "copy", "0" * 64, 10**6)
            assert "secret" not in str(raised.value)
        server.shutdown()
    with pytest.raises(StorageError, match=r"cannot read a\.mp4 at 127\.0\.0\.1:1"):
        fetch_link("http://127.0.0.1:1/a", "a.mp4", tmp_path / "copy", "0" * 64, 10**6)
    assert not list(tmp_path.iterdir())


def test_a_password_in_the_url_is_not_shown():
    with pytest.raises(StorageError) as raised:
        Storage("nosuch://me:hush@host/farm")
    assert "hush" not in str(raised.value)
    assert Storage("memory://me:hush@host/farm").url == "memory://***@host/farm"


def test_until_it_is_made_a_storage_is_away_and_nothing_makes_it(unmade, source):
    storage, digest = Storage(unmade), hashlib.sha256(source.read_bytes()).hexdigest()
    uses = [
        lambda: storage.put(source, "a.mp4"),
        lambda: storage.put(source, input_name(digest), digest),
        lambda: storage.remove("a.mp4"),
        lambda: storage.size("a.mp4"),
        lambda: list(storage.chunks("a.mp4")),
        storage.check,
        storage.identify,
    ]
    for use in uses:
        with pytest.raises(StorageAway, match=rf"is away: .*run once: ltx storage init {re.escape(unmade)}$"):
            use()
    assert not storage._fs.exists(storage._root)


def test_it_is_made_once_and_stays_the_same(unmade, source):
    first = Storage(unmade).init()
    assert re.fullmatch("[0-9a-f]{32}", first)
    Storage(unmade).put(source, "a.mp4")
    assert Storage(unmade).init() == Storage(unmade).identify() == first
    assert names_in(unmade) == ["a.mp4"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"id": "x"}', b"\xff" * 9000, b"[" * 10000])
def test_a_damaged_marker_is_none_and_is_made_anew(url, content):
    storage = Storage(url)
    storage._fs.pipe_file(f"{storage._root}/{MARKER}", content)
    with pytest.raises(StorageAway, match=r"no valid \.ltx-storage is in it"):
        storage.identify()
    assert Storage(url).init() == storage.identify()


def test_another_storage_in_its_place_is_not_taken_for_it(url, source):
    storage = Storage(url)
    storage.identify()
    storage._fs.rm_file(f"{storage._root}/{MARKER}")
    Storage(url).init()
    with pytest.raises(StorageAway, match="not the one that was there before"):
        storage.put(source, "a.mp4")
    assert names_in(url) == []


def test_only_the_last_folder_is_made(tmp_path):
    with pytest.raises(StorageError, match=f"there is no {tmp_path}/not-mounted$"):
        Storage(str(tmp_path / "not-mounted" / "farm")).init()
    assert list(tmp_path.iterdir()) == []


OUTSIDE = [
    "../x",
    "a/../x",
    "/etc/passwd",
    "",
    ".",
    "..",
    ".hidden",
    "a/",
    "a//b",
    "a\0b",
    "a\nb",
    "~",
    "a\\..\\b",
    "x" * 300,
]


@pytest.mark.parametrize("name", OUTSIDE, ids=repr)
def test_no_name_leads_out_of_it(url, name, source, tmp_path):
    """Anybody may have written it: a result's names come from a worker, through the broker."""
    storage = Storage(url)
    uses = [
        lambda: storage.put(source, name),
        lambda: storage.get(name, tmp_path / "copy", "0" * 64),
        lambda: storage.size(name),
        lambda: storage.exists(name),
        lambda: storage.remove(name),
        lambda: storage.remove_unfinished(name),
    ]
    for use in uses:
        with pytest.raises(StorageError, match="not the name of a file"):
            use()
    assert names_in(url) == []


def lies(storage, how, monkeypatch):
    """Let a storage's file system report a file as written, and store something else."""
    spoil = {
        "nothing": lambda data: None,
        "empty": lambda data: b"",
        "half": lambda data: data[: len(data) // 2],
        "other": lambda data: bytes(len(data)),
    }[how]

    def put_file(source, target, **_options):
        if (data := spoil(Path(source).read_bytes())) is not None:
            storage._fs.pipe_file(target, data)

    def copy_in(source, folder, name):
        if (data := spoil(source.read_bytes())) is not None:
            storage_folder.write_new_at(folder, name, data)

    monkeypatch.setattr(storage_folder, "copy_in", copy_in)
    monkeypatch.setattr(storage._fs, "put_file", put_file)


@pytest.mark.parametrize("how", ["nothing", "empty", "half", "other"])
def test_a_storage_that_says_written_and_has_something_else_is_not_believed(url, source, tmp_path, monkeypatch, how):
    storage = Storage(url)
    with monkeypatch.context() as lying:
        lies(storage, how, lying)
        with pytest.raises(
            StorageError, match=r"could not store a\.mp4 in .*(is there|are there|content|No such file)"
        ):
            storage.put(source, "a.mp4")
    assert names_in(url) == []
    storage.put(source, "a.mp4")
    storage.get("a.mp4", tmp_path / "copy", hashlib.sha256(source.read_bytes()).hexdigest())


def test_what_is_lost_by_the_rename_is_noticed(tmp_path, source, monkeypatch):
    """A server may take the rename, and lose what had not got to its disk."""
    storage, replace = made(tmp_path / "store"), os.replace

    def cut(temporary, target, **folders):
        replace(temporary, target, **folders)
        (tmp_path / "store" / target).write_bytes(b"")

    monkeypatch.setattr(os, "replace", cut)
    with pytest.raises(StorageError, match="it was accepted, but 0 of 6000 bytes are there"):
        storage.put(source, "a.mp4")
    assert names_in(str(tmp_path / "store")) == []


def test_what_is_not_the_file_that_it_was_is_not_stored(url, source):
    for path in (source, source.with_name("gone")):
        with pytest.raises(DamagedSource):
            Storage(url).put(path, "a.mp4", "0" * 64)
    assert names_in(url) == []


@pytest.mark.parametrize("moment", ["before", "while", "after"])
def test_a_share_that_goes_away_in_the_middle_gets_nothing_under_its_mount_point(tmp_path, source, monkeypatch, moment):
    """It needs no right to mount: the share's folder is moved away, and replaced by an empty one."""
    point, share = tmp_path / "mnt", tmp_path / "share"
    storage = made(point)

    def unmount():
        point.rename(share)
        point.mkdir()

    copy, replace = storage_folder.copy_in, os.replace
    if moment == "before":
        unmount()
    elif moment == "while":
        monkeypatch.setattr(storage_folder, "copy_in", lambda *a: (unmount(), copy(*a)))
    else:
        monkeypatch.setattr(os, "replace", lambda *a, **o: (unmount(), replace(*a, **o)))
    with pytest.raises(StorageAway):
        storage.put(source, "a.mp4")
    assert list(point.iterdir()) == []
    assert [path.name for path in share.iterdir()] == [MARKER]
    monkeypatch.undo()
    point.rmdir()
    share.rename(point)
    storage.put(source, "a.mp4")
    assert names_in(str(point)) == ["a.mp4"]


def test_more_bytes_than_there_should_be_are_not_taken(url, source, tmp_path):
    storage, digest = Storage(url), hashlib.sha256(source.read_bytes()).hexdigest()
    storage.put(source, "a.mp4")
    with pytest.raises(StorageError, match="more than the 5,999 bytes"):
        storage.get("a.mp4", tmp_path / "copy", digest, 5999)
    assert not (tmp_path / "copy").exists()
    storage.get("a.mp4", tmp_path / "copy", digest, 6000)


def test_a_cache_before_a_storage_does_not_answer_for_it(tmp_path, source):
    folder = tmp_path / "store"
    storage = made(f"simplecache::file://{folder}")
    storage.put(source, "a.mp4")
    assert b"".join(storage.chunks("a.mp4")) == source.read_bytes()
    (folder / MARKER).unlink()
    with pytest.raises(StorageAway):
        storage.put(source, "b.mp4")


def test_the_command_makes_a_storage_and_checks_it(tmp_path, monkeypatch):
    monkeypatch.setenv("LTX_STORAGE_URL", str(tmp_path / "store"))

    def ltx(*words, code=0):
        done = CliRunner().invoke(main, ["storage", *words])
        assert done.exit_code == code, done.output
        return done

    assert "ltx storage init" in ltx("check", code=69).stderr
    made = ltx("init").stdout
    assert ltx("init").stdout == ltx("check").stdout == ltx("check", str(tmp_path / "store")).stdout == made
    assert names_in(str(tmp_path / "store")) == []
    assert ltx("init", str(tmp_path / "no" / "store"), code=69).stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["my share", "farm's", "a;b", "$HOME", "plain"])
def test_the_command_that_is_advised_can_be_pasted(tmp_path, name):
    with pytest.raises(StorageAway) as away:
        Storage(str(tmp_path / name)).identify()
    _, _, command = str(away.value).partition("run once: ")
    assert shlex.split(command) == ["ltx", "storage", "init", str(tmp_path / name)]
