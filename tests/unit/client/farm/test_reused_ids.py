"""Test an id that a removed job had: whatever remains of that one, no new job is done from the start."""

import pytest
from pydantic import SecretStr

from ltx_client.errors import IdUsed, JobConflict
from ltx_client.farm.batches import PreparedBatch, derived_id
from ltx_client.farm.farm import Farm
from ltx_client.farm.ledger.scripts import Submission
from ltx_client.farm.retention import find_old
from ltx_client.protocol import events
from ltx_client.protocol.events import Result
from ltx_client.protocol.jobs import Relations
from ltx_client.protocol.state import Status

DONE = events.Done(result=Result(video="a.mp4", sidecar="a.json", size=1, sha256="0"))
KINDS = ["cancel", "state", "events", "preview", "lease", "latents", "result"]


@pytest.fixture
def farm(redis_client, names, monkeypatch):
    monkeypatch.setattr("ltx_client.farm.submit.publish", lambda *_: None)
    return Farm.over(redis_client, SecretStr("redis://localhost"), names, None)


@pytest.fixture
def end(ledger):
    def end_job(job_id, event=DONE):
        ledger.commit(ledger.claim(job_id, "w", "mac"), event)

    return end_job


def collect(farm):
    now = farm.now()
    for _ in farm.remove(find_old(*farm.all_jobs(), None, -60, now), None):
        pass


def test_an_id_that_gc_has_freed_is_refused_while_anything_is_left(farm, end, make_job):
    """Such a job was shown as done, and never rendered."""
    job = make_job(id="mine")
    farm.send(job)
    end("mine")
    collect(farm)
    with pytest.raises(IdUsed, match="the id mine belonged to a job that was removed; use another --id"):
        farm.send(job)
    assert farm.jobs() == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("type_of", ["string", "hash", "stream"])
def test_each_kind_of_key_that_an_id_may_have_is_looked_for(
    client_ledger, redis_client, names, make_job, kind, type_of
):
    job = make_job()
    key = getattr(names, kind)(job.id)
    write = {
        "string": lambda: redis_client.set(key, "x"),
        "hash": lambda: redis_client.hset(key, "a", "b"),
        "stream": lambda: redis_client.xadd(key, {"a": "b"}),
    }
    write[type_of]()
    before = redis_client.keys("*")
    assert client_ledger.submit(job) is Submission.USED
    assert redis_client.keys("*") == before, "nothing is half-written"
    redis_client.delete(key)
    assert client_ledger.submit(job) is Submission.CREATED


def test_the_kinds_of_keys_are_all_that_the_names_know(names):
    own = {name for name in vars(type(names)) if not name.startswith("_")}
    by_job = {
        name for name in own if callable(getattr(names, name)) and "job_id" in getattr(names, name).__code__.co_varnames
    }
    assert by_job - {"job", "readers", "besides_job"} == set(KINDS)
    assert sorted(names.besides_job("x")) == sorted(getattr(names, kind)("x") for kind in KINDS)


def test_once_all_is_gone_an_id_begins_clean(farm, end, make_job, redis_client, names, ledger):
    job = make_job(id="mine")
    farm.send(job)
    end("mine", events.Failed(error="no"))
    collect(farm)
    for key in names.besides_job("mine"):  # a week later
        redis_client.delete(key)
    farm.send(job)
    assert (farm.view("mine").status, farm.view("mine").snapshot.seq) == (Status.QUEUED, 0)
    assert ledger.claim("mine", "w", "mac").number == 1


def test_a_cancelled_job_that_nobody_began_leaves_its_id_free(farm, make_job):
    job = make_job(id="mine")
    farm.send(job)
    farm.cancel("mine")
    collect(farm)
    farm.send(job)
    assert farm.view("mine").status is Status.QUEUED


def batch_of(make_job, count):
    jobs = [make_job(id=derived_id("night", item)) for item in range(1, count + 1)]
    return PreparedBatch("night", "a.txt", [(job, Relations(batch="night", item=n)) for n, job in enumerate(jobs, 1)])


@pytest.mark.parametrize("removed", [[0], [2], [0, 1, 2]])
def test_a_batch_of_a_used_id_is_refused_as_a_whole(farm, end, make_job, redis_client, removed):
    batch = batch_of(make_job, 3)
    farm.send_batch(batch)
    for number in removed:
        end(batch.jobs[number][0].id)
    collect(farm)
    before = sorted(redis_client.keys("*"))
    with pytest.raises(IdUsed, match="batch night was submitted before, and some of its jobs are removed"):
        farm.send_batch(batch_of(make_job, 5))
    assert sorted(redis_client.keys("*")) == before


def test_a_batch_with_one_job_of_somebody_elses_is_refused_as_a_whole(farm, make_job, redis_client):
    batch = batch_of(make_job, 3)
    farm.send(make_job(id=batch.jobs[1][0].id, priority=1))
    before = sorted(redis_client.keys("*"))
    with pytest.raises(JobConflict, match="exists already, with another request"):
        farm.send_batch(batch)
    assert sorted(redis_client.keys("*")) == before


def test_a_batch_whose_jobs_are_all_gone_for_good_begins_anew(farm, make_job, redis_client, names, end):
    batch = batch_of(make_job, 2)
    farm.send_batch(batch)
    for job, _ in batch.jobs:
        redis_client.delete(names.job(job.id))
    redis_client.zadd(names.batch_jobs("night"), {"stray": 7})
    redis_client.hset(names.batch("night"), mapping={"name": "old.txt", "submitted_at": 1, "noted_at": 1})
    farm.send_batch(batch)
    (found,) = farm.batches()
    assert (found.name, len(found.views)) == ("a.txt", 2)
    assert abs(found.submitted_at - farm.now()) < 60
    assert redis_client.zcard(names.batch_jobs("night")) == 2


def test_a_batch_that_is_being_submitted_is_not_dropped(farm, make_job, redis_client, names):
    """A batch is recorded before its jobs; its id may have been recorded long ago."""
    farm._run(farm._operations._batches.note(batch_of(make_job, 1)))
    redis_client.hset(names.batch("night"), "submitted_at", 1)
    farm._run(farm._operations._batches.drop_empty())  # as gc does
    assert farm.batches() == []
    assert redis_client.exists(names.batch("night"))
    redis_client.hset(names.batch("night"), "noted_at", 1)
    farm._run(farm._operations._batches.drop_empty())
    assert farm.batches() == []
    assert not redis_client.exists(names.batch("night"))


def test_a_retry_after_an_earlier_one_was_removed_is_a_job_of_its_own(farm, end, make_job, redis_client, names):
    job = make_job()
    farm.send(job)
    end(job.id, events.Failed(error="no"))
    first = farm.retry(job.id)
    assert farm.retry(job.id).id == first.id
    end(first.id, events.Failed(error="no"))
    redis_client.delete(names.job(first.id))  # as gc does
    second = farm.retry(job.id)
    assert second.id not in (job.id, first.id)
    assert farm.retry(job.id).id == second.id
    assert farm.view(second.id).status is Status.QUEUED
