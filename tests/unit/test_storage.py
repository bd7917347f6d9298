"""One contract for every storage: a file appears whole under its name, or not at all."""

import hashlib
import uuid

import fsspec
import pytest

from ltx_client.protocol.storage import Storage, StorageError, input_name


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


def test_what_is_put_can_be_fetched(url, source, tmp_path):
    storage, digest = Storage(url), hashlib.sha256(source.read_bytes()).hexdigest()
    for name in ("a.mp4", input_name(digest)):
        assert not storage.exists(name)
        storage.put(source, name)
        assert storage.exists(name)
        storage.get(name, tmp_path / "copy", digest)
        assert (tmp_path / "copy").read_bytes() == source.read_bytes()
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


def test_a_put_that_fails_in_the_middle_leaves_nothing(tmp_path, source, monkeypatch):
    storage = Storage(str(tmp_path / "store"))
    monkeypatch.setattr("ltx_client.protocol.storage._flush", broken)
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
