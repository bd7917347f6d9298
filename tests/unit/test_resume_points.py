"""Resume points that are too large for Redis."""

import pytest

from ltx_client.protocol import events
from ltx_client.protocol.storage import Storage, StorageError
from ltx_worker.ledger import StaleAttempt
from ltx_worker.resume_points import ResumePoints

LARGE, LARGER = b"PK" + b"a" * 100, b"PK" + b"b" * 200


@pytest.fixture
def storage(tmp_path):
    return Storage(str(tmp_path / "storage"))


@pytest.fixture
def points(ledger, storage, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    return ResumePoints(ledger, storage, work, max_in_redis=50)


def test_a_small_one_stays_in_redis(ledger, points, storage, job):
    attempt = ledger.claim(job.id, "w1", "one")
    points.save(attempt, b"PK small")
    assert points.load(job.id) == ledger.saved(job.id) == b"PK small"
    assert storage.names("resume") == []


def test_a_large_one_goes_into_the_storage_and_the_one_before_is_kept(ledger, points, storage, job):
    attempt = ledger.claim(job.id, "w1", "one")
    assert points.load(job.id) is None
    for content in (LARGE, LARGER, LARGE):
        points.save(attempt, content)
        assert points.load(job.id) == content
        assert len(ledger.saved(job.id)) < 200
    assert storage.names("resume") == [f"{job.id}.1.0", f"{job.id}.1.1"]


def test_a_small_one_takes_the_place_of_a_large_one(ledger, points, job):
    attempt = ledger.claim(job.id, "w1", "one")
    points.save(attempt, LARGE)
    points.save(attempt, b"PK small")
    assert points.load(job.id) == b"PK small"


def test_a_storage_that_fails_leaves_the_one_before(ledger, points, storage, job, monkeypatch):
    attempt = ledger.claim(job.id, "w1", "one")
    points.save(attempt, LARGE)

    def fail(*_):
        raise StorageError("full")

    monkeypatch.setattr(storage, "put", fail)
    with pytest.raises(StorageError):
        points.save(attempt, LARGER)
    assert points.load(job.id) == LARGE


def test_a_file_that_is_gone_or_another_is_no_resume_point(ledger, points, storage, job, caplog):
    attempt = ledger.claim(job.id, "w1", "one")
    points.save(attempt, LARGE)
    points.save(attempt, LARGER)
    storage.remove(f"resume/{job.id}.1.1")
    assert points.load(job.id) is None
    assert "it begins again" in caplog.text


def test_a_stale_attempt_moves_no_pointer(ledger, points, job):
    first = ledger.claim(job.id, "w1", "one")
    points.save(first, LARGE)
    ledger.release(first, "draining")
    second = ledger.claim(job.id, "w2", "two")
    points.save(second, LARGER)
    with pytest.raises(StaleAttempt):
        points.save(first, LARGE)
    assert points.load(job.id) == LARGER


def test_the_files_of_jobs_that_have_ended_are_swept(ledger, points, storage, job, make_job, client_ledger):
    going_on = make_job()
    client_ledger.submit(going_on)
    attempts = [ledger.claim(owner.id, "w1", "one") for owner in (job, going_on)]
    for attempt in attempts:
        points.save(attempt, LARGE)
    folder = storage.local_folder / "resume"
    for owner in (job, going_on):  # a worker was killed as it wrote these
        (folder / f".{owner.id}.1.1.0a1b2c3d.part").touch()
    ledger.commit(attempts[0], events.Failed(error="x"))
    assert points.has_files
    points.sweep()
    assert not points.has_files
    assert sorted(path.name for path in folder.iterdir()) == [
        f".{going_on.id}.1.1.0a1b2c3d.part",
        f"{going_on.id}.1.0",
    ]
