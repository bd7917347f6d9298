"""Handing a finished video over to a storage that fails in the middle; and what else may lie in a spool."""

import errno
import os
import shutil

import pytest
import redis
from fsspec.implementations.local import LocalFileSystem

from ltx_client.protocol import damage
from ltx_client.protocol.events import Result
from ltx_client.protocol.state import Status
from ltx_client.protocol.storage import Storage
from ltx_worker.delivery import Spool
from ltx_worker.resume_points import ResumePoints


@pytest.fixture
def storage(tmp_path):
    return Storage(str(tmp_path / "storage"))


@pytest.fixture
def spool(ledger, storage, tmp_path):
    points = ResumePoints(ledger, storage, tmp_path, 10**6)
    return Spool(tmp_path / "spool", storage, ledger, points, retry_for=5, look_every=1)


def test_a_try_that_left_part_of_a_file_is_cleared_up_by_the_next(spool, ledger, job, tmp_path, monkeypatch):
    """The storage turns read-only in mid-write, so that even the part cannot be removed, and comes back."""
    read_only = []
    put, remove = LocalFileSystem.put_file, LocalFileSystem.rm_file

    def put_file(self, path1, path2, **options):
        put(self, path1, path2, **options)
        if not read_only:
            read_only.append(path2)
            raise OSError(errno.EROFS, "read-only", path2)

    def rm_file(self, path):
        if path in read_only[:1] and len(read_only) == 1:
            read_only.append("gone again")
            raise OSError(errno.EROFS, "read-only", path)
        remove(self, path)

    monkeypatch.setattr(LocalFileSystem, "put_file", put_file)
    monkeypatch.setattr(LocalFileSystem, "rm_file", rm_file)
    video, sidecar = tmp_path / "a.mp4", tmp_path / "a.json"
    for path in (video, sidecar):
        path.write_bytes(b"whole")
    attempt = ledger.claim(job.id, "w1", "one")
    spool.deliver(attempt, video, sidecar, Result(video="v.mp4", sidecar="v.json", size=5, sha256="00"))
    assert ledger.read(job.id).status is Status.DONE
    assert len(read_only) == 2
    assert sorted(path.name for path in (tmp_path / "storage").iterdir()) == ["v.json", "v.mp4"]


def keep(spool, ledger, job, tmp_path):
    """A finished video whose delivery waits, since the broker was away."""
    folder = tmp_path / "finished"
    folder.mkdir(exist_ok=True)
    for name in ("video.mp4", "sidecar.json"):
        (folder / name).write_bytes(b"whole")
    attempt = ledger.claim(job.id, "w1", "one")
    commit, ledger.commit = ledger.commit, lambda *_: (_ for _ in ()).throw(redis.ConnectionError("gone"))
    spool._retry_for = 0
    result = Result(video=f"{job.id}.mp4", sidecar=f"{job.id}.json", size=5, sha256="00")
    spool.deliver(attempt, folder / "video.mp4", folder / "sidecar.json", result)
    ledger.commit = commit
    (kept,) = (path for path in spool._folder.iterdir() if path.name.startswith(job.id))
    return kept


def a_foreign_note(spool, kept):
    foreign = spool / "another-job.1"
    shutil.copytree(kept, foreign)


def a_note_of(text):
    def make(spool, kept):
        (spool / "job.1").mkdir()
        (spool / "job.1" / "delivery.json").write_bytes(text)

    return make


STRAY = {
    "a file of the Finder's": lambda spool, kept: (spool / ".DS_Store").write_bytes(b"\0\0"),
    "a file of Windows'": lambda spool, kept: (spool / "Thumbs.db").write_text(""),
    "a file with a video's name": lambda spool, kept: (spool / "job.1").write_text(""),
    "a folder of somebody's": lambda spool, kept: (spool / "my things").mkdir(),
    "a hidden folder": lambda spool, kept: (spool / ".Trashes").mkdir(),
    "a link to nowhere": lambda spool, kept: (spool / "job.1").symlink_to("nowhere"),
    "a link to itself": lambda spool, kept: (spool / "job.1").symlink_to(spool / "job.1"),
    "a link to a folder": lambda spool, kept: (spool / "job.1").symlink_to(spool.parent),
    "a pipe": lambda spool, kept: os.mkfifo(spool / "job.1"),
    "an empty note": a_note_of(b""),
    "a foreign note": a_foreign_note,
    "a note that is no JSON": a_note_of(b"\xff\xfe"),
    "a note of something else": a_note_of(b'{"what": "is this"}'),
    "a deep note": a_note_of(b"[" * 100_000),
    "a folder in place of a note": lambda spool, kept: (spool / "job.1" / "delivery.json").mkdir(parents=True),
    "a name that is no text": lambda spool, kept: (spool / os.fsdecode(b"\xff\xfe")).mkdir(),
}


@pytest.mark.parametrize("stray", STRAY)
def test_what_lies_in_the_spool_by_mistake_is_left_there_and_the_videos_are_delivered(
    spool, ledger, job, tmp_path, stray, caplog
):
    damage.tell_once.cache_clear()
    kept = keep(spool, ledger, job, tmp_path)
    STRAY[stray](spool._folder, kept)
    strays = set(spool._folder.iterdir()) - {kept}
    assert spool.waiting() >= 1
    spool._stopped.set()  # so that a cycle does not wait
    for _ in range(3):
        spool._cycle()
    assert ledger.read(job.id).status is Status.DONE
    assert set(spool._folder.iterdir()) == strays
    said = [message for message in caplog.messages if "set aside" in message]
    assert len(said) == 1
    (path,) = strays
    assert str(path)[:-3].encode(errors="replace") in said[0].encode(errors="replace")


def test_a_folder_that_cannot_be_read_is_set_aside(spool, ledger, job, tmp_path, monkeypatch):
    """As one without the permission; root may read all, and these tests may be root's."""
    kept = keep(spool, ledger, job, tmp_path)
    closed = spool._folder / "closed.1"
    closed.mkdir()
    deliver = spool._deliver_kept

    def deliver_but_closed(folder):
        if folder == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)
        deliver(folder)

    monkeypatch.setattr(spool, "_deliver_kept", deliver_but_closed)
    spool._stopped.set()
    spool._cycle()
    assert ledger.read(job.id).status is Status.DONE
    assert list(spool._folder.iterdir()) == [closed]
    assert not kept.exists()


@pytest.mark.parametrize(
    "error",
    [
        redis.exceptions.OutOfMemoryError("full", status_code="OOM"),
        redis.ResponseError("BUSY with a script"),
        redis.ResponseError("ERR what is this"),
        redis.ConnectionError("gone"),
    ],
    ids=str,
)
def test_a_finished_video_waits_for_whatever_the_broker_says(spool, ledger, job, tmp_path, monkeypatch, error):
    keep(spool, ledger, job, tmp_path)
    spool._stopped.set()
    for method in ("renew", "commit", "refresh"):
        with monkeypatch.context() as broken:

            def fails(*_, error=error):
                raise error

            broken.setattr(ledger, method, fails)
            spool._cycle()
        assert spool.waiting() == 1
    spool._cycle()
    assert spool.waiting() == 0
    assert ledger.read(job.id).status is Status.DONE


def test_a_spool_that_was_removed_is_made_again(spool):
    shutil.rmtree(spool._folder)
    assert spool.waiting() == 0
    spool._stopped.set()
    spool._cycle()
    assert spool._folder.is_dir()
