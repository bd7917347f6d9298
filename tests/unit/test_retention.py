"""What `ltx gc` takes away, and above all what it leaves."""

import os
import time

import pytest
from pydantic import SecretStr

from ltx_client.farm import Farm
from ltx_client.protocol import events
from ltx_client.protocol.events import Result
from ltx_client.protocol.jobs import Links
from ltx_client.retention import find_old, parse_age
from ltx_models.request import ConditioningItem
from tests.storages import made

DAY = 24 * 3600
NOW = time.time()


@pytest.fixture
def farm(redis_client, names):
    return Farm.over(redis_client, SecretStr("redis://localhost"), names, None)


@pytest.fixture(params=["folder", "memory"])
def storage(request, tmp_path):
    return made(str(tmp_path / "store") if request.param == "folder" else f"memory://{tmp_path}")


@pytest.fixture
def put(storage, tmp_path):
    def store(name, days=0.0):
        source = tmp_path / "source"
        source.write_bytes(b"12345")
        storage.put(source, name)
        if days and storage._fs.protocol[0] == "file":
            os.utime(storage._path(name), (NOW - days * DAY,) * 2)
        elif days:
            entry = storage._fs.store[storage._path(name)]
            entry.created = entry.created.fromtimestamp(NOW - days * DAY, entry.created.tzinfo)
            entry.modified = entry.created
        return name

    return store


@pytest.fixture
def job_done(client_ledger, ledger, make_job, put):
    """A job that ended so many days ago, and its files, which were written then."""

    def make(days, ending=None, **fields):
        job = make_job(**fields)
        client_ledger.submit(job, Links(batch="night", item=1))
        attempt = ledger.claim(job.id, "w", "mac")
        name = put(f"{job.id}.1.mp4", days)
        result = Result(video=name, sidecar="", size=5, sha256="0")
        ledger.commit(attempt, ending or events.Done(at=NOW - days * DAY, result=result))
        return job.id

    return make


def old(farm, storage, days):
    return find_old(*farm.all_jobs(), storage, NOW - days * DAY)


def test_what_ended_long_ago_goes_and_nothing_else(
    farm, storage, put, job_done, client_ledger, ledger, make_job, redis_client, names
):
    gone, stays = job_done(8), job_done(2)
    failed = job_done(9, events.Failed(at=NOW - 9 * DAY, error="no"))
    running, waits = make_job(), make_job()
    for job in (running, waits):
        client_ledger.submit(job)
        put(f"{job.id}.1.mp4", 100)
    ledger.claim(running.id, "w", "mac")
    unreadable = make_job()
    client_ledger.submit(unreadable)
    redis_client.hset(names.job(unreadable.id), "spec", '{"protocol": 99}')
    put(f"{unreadable.id}.1.mp4", 100)
    forgotten = put("0000-forgotten.1.mp4", 30), put("0000-forgotten.1.json", 30)
    put("0000-new.1.mp4")
    put("holiday.mp4", 100)
    put("notes.txt", 100)
    put("resume/x.1.0", 100)

    found = old(farm, storage, 7)
    assert sorted(found.jobs) == sorted([gone, failed])
    assert sorted(found.files) == sorted([f"{gone}.1.mp4", f"{failed}.1.mp4", *forgotten])
    assert found.size == 5 * 4
    farm.forget(found.jobs)
    known = {view.job.id for view in farm.jobs()}
    assert known == {stays, running.id, waits.id}
    assert [view.job.id for view in farm._batches.get("night").views] == [stays]
    assert old(farm, storage, 7).jobs == []


def test_what_a_job_was_given_stays_while_one_needs_it(farm, storage, put, client_ledger, make_job):
    used, unused, new = ("a" * 64, "b" * 64, "c" * 64)
    job = make_job()
    item = ConditioningItem(kind="image", source=f"sha256:{used}")
    job = job.model_copy(update={"request": job.request.__class__(**{**vars(job.request), "conditioning": (item,)})})
    client_ledger.submit(job)
    for name, days in ((used, 50), (unused, 50), (new, 1), ("README", 50)):
        put(f"inputs/{name}", days)
    assert list(old(farm, storage, 7).files) == [f"inputs/{unused}"]
    client_ledger.cancel(job.id)
    assert set(find_old(*farm.all_jobs(), storage, NOW + DAY).files) == {
        f"inputs/{name}" for name in (used, unused, new)
    }


def test_a_batch_is_forgotten_with_its_last_job(farm, job_done, redis_client, names):
    job_id = job_done(9)
    redis_client.hset(
        names.batch("night"), mapping={"name": "a.txt", "submitted_at": NOW - 9 * DAY, "submitter": "ann"}
    )
    redis_client.zadd(names.batches(), {"night": NOW - 9 * DAY})
    assert [batch.name for batch in farm.batches()] == ["a.txt"]
    farm.forget([job_id])
    assert farm.batches() == []
    assert redis_client.keys(names.batch("*")) == []


@pytest.mark.parametrize(("text", "seconds"), [("12h", 12 * 3600), ("30d", 30 * DAY), (" 2W ", 14 * DAY), ("0d", 0)])
def test_ages(text, seconds):
    assert parse_age(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1.5d", "9999999d", "30 days"])
def test_what_is_no_age(text):
    with pytest.raises(ValueError, match="is no age; give hours"):
        parse_age(text)
