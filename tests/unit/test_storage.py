"""One contract for every storage: a file appears whole under its name, or not at all."""

import uuid

import fsspec
import pytest

from ltx_client import results
from ltx_client.errors import StorageUnreachable, UsageError
from ltx_client.protocol.events import Result
from ltx_worker.storage import Storage, StorageError


@pytest.fixture(params=["path", "file", "memory"])
def url(request, tmp_path):
    return {
        "path": str(tmp_path / "store"),
        "file": f"file://{tmp_path}/store",
        "memory": f"memory://{uuid.uuid4().hex}",
    }[request.param]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(b"frames" * 1000)
    return path


def names_in(url):
    fs, root = fsspec.core.url_to_fs(url)
    return sorted(path.rsplit("/", 1)[-1] for path in fs.ls(root, detail=False))


def result(sha256="f11d6e7c1a4c7ba2", name="a.mp4"):
    return Result(video=name, sidecar="a.json", size=6000, sha256=sha256)


def test_what_is_put_can_be_downloaded(url, source, tmp_path):
    import hashlib

    Storage(url).put(source, "a.mp4")
    assert names_in(url) == ["a.mp4"]
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    results.download(url, result(digest), tmp_path / "copy.mp4")
    assert (tmp_path / "copy.mp4").read_bytes() == source.read_bytes()


def test_a_wrong_checksum_delivers_nothing_and_keeps_what_was_there(url, source, tmp_path):
    target = tmp_path / "out" / "copy.mp4"
    target.parent.mkdir()
    target.write_bytes(b"before")
    Storage(url).put(source, "a.mp4")
    with pytest.raises(StorageUnreachable, match="SHA-256 differs"):
        results.download(url, result(), target)
    assert [path.name for path in target.parent.iterdir()] == ["copy.mp4"]
    assert target.read_bytes() == b"before"


def test_a_missing_file_names_the_storage(url, tmp_path):
    with pytest.raises(StorageUnreachable, match="LTX_STORAGE_URL"):
        results.download(url, result(), tmp_path / "copy.mp4")


def test_a_target_that_cannot_be_written(url, source, tmp_path):
    Storage(url).put(source, "a.mp4")
    with pytest.raises(UsageError, match="cannot write"):
        results.download(url, result(), tmp_path / "no" / "copy.mp4")


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


def test_a_put_that_fails_in_the_middle_leaves_nothing(tmp_path, source, monkeypatch):
    storage = Storage(str(tmp_path / "store"))
    monkeypatch.setattr("ltx_worker.storage._flush", broken)
    with pytest.raises(StorageError, match=r"could not store a\.mp4"):
        storage.put(source, "a.mp4")
    assert names_in(storage.url) == []


def broken(_path):
    raise OSError(28, "No space left on device")


def test_a_storage_that_cannot_be_written_is_told_at_the_start(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match="cannot write to the storage"):
        Storage(str(tmp_path / "file" / "store")).check()


def test_an_unknown_kind_of_storage():
    with pytest.raises(StorageError, match="nosuch"):
        Storage("nosuch://bucket")
