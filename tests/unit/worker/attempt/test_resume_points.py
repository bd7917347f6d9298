"""Resume points that are too large for Redis."""

import hashlib
import json

import pytest

from ltx_client.protocol import events
from ltx_client.shared.storage.store import StorageError
from ltx_worker.attempt.resume_points import ResumePoints
from ltx_worker.ledger.ledger import StaleAttempt
from tests.storages import made

LARGE, LARGER = b"PK" + b"a" * 100, b"PK" + b"b" * 200


@pytest.fixture
def storage(tmp_path):
    return made(str(tmp_path / "storage"))


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
    assert storage.names("resume") == [f"{attempt.name}.0", f"{attempt.name}.1"]


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
    storage.remove(f"resume/{attempt.name}.1")
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
    for attempt in attempts:  # a worker was killed as it wrote these
        (folder / f".{attempt.name}.1.0a1b2c3d.part").touch()
    ledger.commit(attempts[0], events.Failed(error="x"))
    assert points.has_files
    points.sweep()
    assert not points.has_files
    assert sorted(path.name for path in folder.iterdir()) == [
        f".{attempts[1].name}.1.0a1b2c3d.part",
        f"{attempts[1].name}.0",
    ]


def pointer(**fields):
    return json.dumps({"file": "", "sha256": hashlib.sha256(LARGE).hexdigest(), **fields}).encode()


HOSTILE = {
    "another job's": lambda attempt: pointer(file="resume/another-job.1.0123456789ab.0"),
    "out of the storage": lambda attempt: pointer(file="../../etc/passwd"),
    "absolute": lambda attempt: pointer(file="/etc/passwd"),
    "a video": lambda attempt: pointer(file=f"{attempt.name}.mp4"),
    "an input": lambda attempt: pointer(file="inputs/" + "0" * 64),
    "through a folder": lambda attempt: pointer(file=f"resume/../resume/{attempt.name}.0"),
    "no file": lambda attempt: b"{}",
    "no JSON": lambda attempt: b"{",
    "deep": lambda attempt: b'{"file":' + b"[" * 10**5,
    "a number": lambda attempt: pointer(file=7),
    "a path as its hash": lambda attempt: pointer(file=f"resume/{attempt.name}.0", sha256="../x"),
    "another hash": lambda attempt: pointer(file=f"resume/{attempt.name}.0", sha256="0" * 64),
    "not there": lambda attempt: pointer(file=f"resume/{attempt.name}.1"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_pointer_that_leads_elsewhere_means_begin_again(ledger, points, job, redis_client, names, caplog, name):
    attempt = ledger.claim(job.id, "w1", "one")
    points.save(attempt, LARGE)
    redis_client.set(names.latents(job.id), HOSTILE[name](attempt))
    reasons = []
    assert points.load(job.id, reasons.append) is None
    assert len(reasons) == 1
    assert "it begins again, for " in caplog.text


def test_a_value_of_another_type_means_begin_again(ledger, points, job, redis_client, names):
    redis_client.hset(names.latents(job.id), "step", -3)
    reasons = []
    assert points.load(job.id, reasons.append) is None
    assert "cannot be read" in reasons[0]


def test_more_than_a_resume_point_can_be_is_not_even_read(
    ledger, points, storage, job, redis_client, names, monkeypatch
):
    attempt = ledger.claim(job.id, "w1", "one")
    points.save(attempt, LARGE)
    assert points.load(job.id) == LARGE
    monkeypatch.setattr("ltx_worker.attempt.resume_points.LARGEST", len(LARGE) - 1)
    assert points.load(job.id) is None
    redis_client.set(names.latents(job.id), LARGE)
    assert points.load(job.id) is None


def test_one_from_before_names_had_a_token_is_still_read(ledger, points, storage, job, redis_client, names, tmp_path):
    ledger.claim(job.id, "w1", "one")
    (tmp_path / "old").write_bytes(LARGE)
    storage.put(tmp_path / "old", f"resume/{job.id}.1.0")
    redis_client.set(names.latents(job.id), pointer(file=f"resume/{job.id}.1.0"))
    assert points.load(job.id) == LARGE


def test_two_attempts_of_one_number_do_not_write_the_same_files(ledger, points, job, redis_client, names):
    first = ledger.claim(job.id, "w1", "one")
    points.save(first, LARGE)
    redis_client.delete(names.state(job.id), names.lease(job.id), names.events(job.id))
    second = ledger.claim(job.id, "w2", "two")
    assert second.number == first.number
    points.save(second, LARGER)
    with pytest.raises(StaleAttempt):
        points.save(first, LARGE)
    assert points.load(job.id) == LARGER
