"""Handing a finished video over to a storage that fails in the middle."""

import errno

import pytest
from fsspec.implementations.local import LocalFileSystem

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
