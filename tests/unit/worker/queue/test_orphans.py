"""Test what the reaper's worker removes from the storage, and above all what it keeps."""

import json
import os
import time

import pytest

from ltx_client.farm.ledger.scripts import ClientLedger
from ltx_client.protocol import events
from ltx_client.protocol.events import Result
from ltx_client.protocol.file_names import POSTER, RESULT_FILES
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import Status
from ltx_client.shared.storage.marker import MARKER
from ltx_client.shared.storage.store import StorageAway
from ltx_worker.attempt.resume_points import ResumePoints
from ltx_worker.ledger.ledger import Ledger
from ltx_worker.queue.orphans import Orphans
from tests.storages import made


@pytest.fixture
def storage(tmp_path):
    return made(tmp_path / "storage")


@pytest.fixture
def orphans(storage, ledger):
    return Orphans(storage, ledger, lambda: True, every=1)


@pytest.fixture
def put(storage, tmp_path):
    def store(*names):
        source = tmp_path / "source"
        source.write_bytes(b"12345")
        for name in names:
            storage.put(source, name)
        return set(names)

    return store


def files_of(attempt):
    return tuple(kind.name(attempt.name) for kind in RESULT_FILES)


def commit(ledger, attempt, **fields):
    names = {kind.field: kind.name(attempt.name) for kind in RESULT_FILES}
    ledger.commit(attempt, events.Done(result=Result(**{**names, "size": 5, "sha256": "0" * 64, **fields})))


def left(storage):
    return {str(path.relative_to(storage.local_folder)) for path in storage.local_folder.rglob("*") if path.is_file()}


def sweep(orphans, times=2):
    for _ in range(times):
        orphans.sweep()


def claim_again(ledger, attempt, worker="w2"):
    ledger.requeue(attempt.job_id, ledger.read(attempt.job_id))
    return ledger.claim(attempt.job_id, worker, "two")


@pytest.fixture
def lapsed(ledger, job, redis_client, names):
    """Return an attempt whose worker was killed between store and commit, and never came back."""
    attempt = ledger.claim(job.id, "w1", "one")
    redis_client.delete(names.lease(job.id))
    return attempt


def test_what_a_killed_attempt_has_left_goes_when_another_has_ended_the_job(orphans, storage, ledger, lapsed, put):
    put(*files_of(lapsed))
    sweep(orphans)
    assert left(storage) == {MARKER, *files_of(lapsed)}, "it is the current one until another is claimed"
    second = claim_again(ledger, lapsed)
    put(*files_of(second))
    sweep(orphans, times=1)
    assert left(storage) == {MARKER, *files_of(lapsed), *files_of(second)}, "one look is not enough"
    sweep(orphans)
    assert left(storage) == {MARKER, *files_of(second)}
    commit(ledger, second)
    sweep(orphans)
    assert left(storage) == {MARKER, *files_of(second)}


@pytest.mark.parametrize("ending", [events.Failed(error="x"), events.Cancelled()], ids=lambda event: event.type)
def test_of_a_job_without_a_result_nothing_stays(orphans, storage, ledger, lapsed, put, ending):
    second = claim_again(ledger, lapsed)
    put(*files_of(lapsed), *files_of(second))
    ledger.commit(second, ending)
    sweep(orphans)
    assert left(storage) == {MARKER}


def test_parts_of_files_go_when_their_attempt_is_over(orphans, storage, ledger, lapsed, put):
    second = claim_again(ledger, lapsed)
    old, new = ([f".{name}.0a1b2c3d.part" for name in files_of(attempt)] for attempt in (lapsed, second))
    for part in old + new:
        (storage.local_folder / part).touch()
    sweep(orphans)
    assert left(storage) == {MARKER, *new}
    put(*files_of(second))
    commit(ledger, second)
    sweep(orphans)
    assert left(storage) == {MARKER, *files_of(second)}


def test_of_two_attempts_of_one_number_the_committed_one_stays(orphans, storage, ledger, job, redis_client, names, put):
    """The server came back without its last writes, and has granted the number again."""
    first = ledger.claim(job.id, "w1", "one")
    redis_client.delete(names.state(job.id), names.lease(job.id), names.events(job.id))
    second = ledger.claim(job.id, "w2", "two")
    assert (first.number, second.number) == (1, 1)
    assert first.name != second.name
    put(*files_of(first), *files_of(second))
    commit(ledger, second)
    sweep(orphans)
    assert set(files_of(second)) <= left(storage)


def test_a_poster_that_the_result_does_not_name_goes(orphans, storage, ledger, job, put):
    """Its attempt has left it out, or was continued by an older worker, which knows no posters."""
    attempt = ledger.claim(job.id, "w1", "one")
    put(*files_of(attempt))
    sweep(orphans)
    commit(ledger, attempt, poster=None)
    sweep(orphans)
    assert left(storage) == {MARKER, *files_of(attempt)} - {POSTER.name(attempt.name)}


def test_the_result_of_an_older_worker_stays(orphans, storage, ledger, job, put, redis_client, names):
    attempt = ledger.claim(job.id, "w1", "one")
    video, sidecar, _ = files_of(attempt)
    put(video, sidecar)
    commit(ledger, attempt)
    snapshot = json.loads(redis_client.hget(names.state(job.id), "snapshot"))
    for name in ("poster", "poster_sha256"):
        del snapshot["result"][name]
    redis_client.hset(names.state(job.id), "snapshot", json.dumps(snapshot))
    sweep(orphans, times=3)
    assert left(storage) == {MARKER, video, sidecar}


def another_farms(redis_client, job, put):
    """Return another farm's job in the same folder, done, under the same id."""
    names = Names("other:")
    ClientLedger(redis_client, names).submit(job)
    ledger = Ledger(redis_client, names)
    attempt = ledger.claim(job.id, "w1", "one")
    put(*files_of(attempt), f"resume/{attempt.name}.0")
    commit(ledger, attempt)
    return {*files_of(attempt), f"resume/{attempt.name}.0"}


def test_what_is_not_certainly_its_own_is_left(orphans, storage, ledger, job, redis_client, put, tmp_path):
    mine = ledger.claim(job.id, "w1", "one")
    theirs = another_farms(redis_client, job, put)
    put(*files_of(mine))
    commit(ledger, mine)
    others = put(
        "nobody-1.1.0123456789ab.mp4",
        f"{job.id}.1.mp4",  # from before names had a token
        f"{job.id}.1.0123456789ab.mp4",
        f"{job.id}.1.{'0' * 11}.mp4",
        f"{mine.name}.mov",
        f"{mine.name}.mp4.bak",
        "holiday.1.mp4",
        "notes.txt",
        "inputs/" + "0" * 64,
        f"resume/{job.id}.1.0123456789ab.0",
        "resume/holiday.mp4",
    )
    (storage.local_folder / ".holiday.mp4.0a1b2c3d.part").touch()
    before = left(storage)
    sweep(orphans, times=3)
    ResumePoints(ledger, storage, tmp_path, 10).sweep()
    assert left(storage) == before
    assert theirs | others | set(files_of(mine)) <= before


DAMAGE = [
    ("snapshot", "{"),
    ("snapshot", '{"status": "done", "result": {"video": "../x", "sidecar": "", "size": 1, "sha256": ""}}'),
    ("snapshot", '{"status": "done"}'),
    ("status", "finished"),
    ("tokens", b"\xff\xfe"),
    ("tokens", ""),
]


@pytest.mark.parametrize(("field", "value"), DAMAGE)
def test_of_a_job_that_cannot_be_read_all_is_left(
    orphans, storage, ledger, lapsed, redis_client, names, put, field, value
):
    second = claim_again(ledger, lapsed)
    put(*files_of(lapsed), *files_of(second))
    commit(ledger, second)
    redis_client.hset(names.state(lapsed.job_id), field, value)
    before = left(storage)
    sweep(orphans, times=3)
    assert left(storage) == before


def test_of_a_job_whose_key_is_something_else_all_is_left(orphans, storage, lapsed, redis_client, names, put):
    put(*files_of(lapsed))
    redis_client.delete(names.state(lapsed.job_id))
    redis_client.set(names.state(lapsed.job_id), "not a hash")
    sweep(orphans, times=3)
    assert set(files_of(lapsed)) <= left(storage)


def test_an_attempt_that_becomes_the_current_one_again_keeps_what_it_stored(
    orphans, storage, ledger, lapsed, redis_client, names, put
):
    """The server came back without the claim that took the job away, between two sweeps."""
    put(*files_of(lapsed))
    before = redis_client.hgetall(names.state(lapsed.job_id))
    claim_again(ledger, lapsed)
    sweep(orphans, times=1)
    redis_client.hset(names.state(lapsed.job_id), mapping=before)
    sweep(orphans, times=1)
    assert set(files_of(lapsed)) <= left(storage)


def test_a_storage_that_is_away_is_not_swept(orphans, storage, lapsed, ledger, put):
    second = claim_again(ledger, lapsed)
    put(*files_of(lapsed), *files_of(second))
    sweep(orphans, times=1)
    (storage.local_folder / MARKER).unlink()
    before = left(storage)
    with pytest.raises(StorageAway):
        orphans.sweep()
    assert left(storage) == before


def test_the_tokens_of_many_attempts_are_bounded(ledger, job, redis_client, names):
    for number in range(1, 131):
        attempt = ledger.claim(job.id, "w1", "one")
        assert attempt.number == number
        ledger.release(attempt, "again")
    (owner,) = ledger.ownership([job.id]).values()
    assert (len(owner.granted), owner.current, owner.status) == (100, attempt.token[:12], Status.QUEUED)
    assert len(redis_client.hget(names.state(job.id), "tokens")) <= 1300


def test_what_a_check_has_left_is_swept_when_it_is_old(orphans, storage):
    old, new = (storage.local_folder / name for name in (".probe-0a1b2c3d", ".probe-4e5f6a7b"))
    for path in old, new:
        path.touch()
    os.utime(old, (time.time() - 4000,) * 2)
    sweep(orphans, 1)
    assert old.exists(), "by one look it might be another machine's clock"
    sweep(orphans, 2)
    assert (old.exists(), new.exists()) == (False, True)
    storage.check()
