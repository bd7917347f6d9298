"""Test that a worker leaves what it cannot read to newer workers, without a strike and without a loop."""

import json
from types import SimpleNamespace

import fakeredis
import pytest

from ltx_client.protocol.jobs import Relations
from ltx_client.protocol.state import Status
from ltx_client.protocol.versions import features
from ltx_client.protocol.versions.features import FEATURES, Feature
from ltx_client.shared.celery.celery_settings import queue_keys
from ltx_worker.ledger.embeddings_cache import EmbeddingsLimit
from ltx_worker.ledger.ledger import Refusal
from ltx_worker.machine.health import Fitness
from ltx_worker.queue import open_jobs
from ltx_worker.queue.claiming import TurnTaker
from ltx_worker.queue.reaper import Reaper


@pytest.fixture
def sent():
    return []


@pytest.fixture
def take(ledger, sent):
    """Have a worker take a message; return the id of the job that it claims, or None."""
    heartbeat = SimpleNamespace(worker_id="w", worker_name="one", variant="pocket")
    health = SimpleNamespace(fitness=Fitness.FIT, left_to_others=set, set_user_pause=lambda why: False)
    leaving = SimpleNamespace(wait=lambda seconds: None, is_set=lambda: False)
    taker = TurnTaker(
        ledger, heartbeat, health, lambda job, priority: sent.append((job.id, job.queue)), leaving, budget_gb=512
    )

    def take_one(job_id):
        claim = taker.take(job_id, "pocket.1")
        return claim and claim.job_id

    return take_one


@pytest.fixture
def submit_newer(client_ledger, make_job, redis_client, names):
    def submit(**change):
        job = make_job(submitter="ann")
        client_ledger.submit(job)
        record = {**json.loads(job.model_dump_json()), **(change or {"hologram": True})}
        redis_client.hset(names.job(job.id), "spec", json.dumps(record))
        return job

    return submit


@pytest.mark.parametrize("change", [{}, {"protocol": 2}])
def test_a_newer_job_waits_for_newer_workers_and_stands_in_nobodys_way(
    take, submit_newer, client_ledger, make_job, ledger, redis_client, names, sent, caplog, change
):
    newer, plain = submit_newer(**change), make_job(submitter="ann")
    client_ledger.submit(plain)
    assert take(newer.id) == plain.id
    assert sent == [(newer.id, "pocket.1+1")], "its message waits with it"
    assert take(newer.id) is None
    assert len(sent) == 1, "nothing goes back and forth"
    assert redis_client.zrange(names.line("pocket", "5:ann"), 0, -1) == [f"1001:{newer.id}".encode()]
    assert (ledger.read(newer.id).status, ledger.read(newer.id).attempt) == (Status.QUEUED, 0)
    assert not redis_client.exists(names.state(newer.id)), "no strike, no event"
    assert caplog.text.count("left to newer workers") == 1
    assert ledger.claim(newer.id, "w", "one", "pocket") is Refusal.NEWER


def test_a_newer_worker_finds_it_there(take, submit_newer, ledger, monkeypatch):
    newer = submit_newer()
    assert take(newer.id) is None
    assert ledger.next("w2", "two", "pocket", 1) is None
    monkeypatch.setattr(features, "FEATURES", (*FEATURES, Feature("holograms", 1, ("hologram",))))
    assert ledger.next("w2", "two", "pocket", 1).job_id == newer.id


def test_any_worker_ends_a_newer_job_whose_cancel_was_asked(take, submit_newer, client_ledger, ledger):
    newer = submit_newer()
    client_ledger.cancel(newer.id)
    assert take(newer.id) is None
    assert ledger.read(newer.id).status is Status.CANCELLED


def test_a_job_with_a_newer_state_is_left_as_it_is(take, submit_newer, redis_client, names, client_ledger, make_job):
    job = make_job(submitter="ann")
    client_ledger.submit(job)
    stored = {"status": "queued", "snapshot": '{"status": "frozen"}'}
    redis_client.hset(names.state(job.id), mapping=stored)
    assert take(job.id) is None
    assert redis_client.hgetall(names.state(job.id)) == {k.encode(): v.encode() for k, v in stored.items()}


@pytest.mark.parametrize(
    ("values", "change"),
    [({"num_frames": 521}, {}), ({"width": 4096}, {}), ({"width": 20}, {"variant": "of-tomorrow"})],
)
def test_a_job_with_values_beyond_the_limits_is_failed_by_nobody(
    take, client_ledger, ledger, make_job, reaper_of, redis_client, names, values, change
):
    job = make_job(submitter="ann")
    client_ledger.submit(job)
    record = {**json.loads(job.model_dump_json()), **change}
    redis_client.hset(names.job(job.id), "spec", json.dumps({**record, "request": {**record["request"], **values}}))
    assert take(job.id) is None
    reaper = reaper_of("w1")
    for _ in range(3):
        reaper.run_once()
    assert take(job.id) is None
    assert ledger.claim(job.id, "w", "one", record["variant"]) is Refusal.NEWER
    assert not redis_client.exists(names.state(job.id)), "no strike, no event"


@pytest.mark.parametrize("stored", [{"snapshot": '{"status": "frozen"}'}, {"snapshot": "damaged"}])
def test_a_cancelled_job_with_a_state_that_cannot_be_read_is_tried_once(
    take, client_ledger, make_job, redis_client, names, sent, stored
):
    """It has no entry in a line that could be passed over, so the same turn would come again without end."""
    job = make_job(submitter="ann")
    client_ledger.submit(job)
    redis_client.hset(names.state(job.id), mapping={"status": "queued", **stored})
    redis_client.set(names.cancel(job.id), "1")
    record = redis_client.hgetall(names.job(job.id))
    assert take(job.id) is None
    assert (redis_client.hgetall(names.job(job.id)), sent) == (record, [])


@pytest.fixture
def reaper_of(redis_client, names, ledger, sent, monkeypatch):
    if isinstance(redis_client, fakeredis.FakeRedis):
        monkeypatch.setattr(Reaper, "_notice_restart", lambda reaper: None)  # the fake has no INFO

    def make(holder, level=0):
        embeddings = EmbeddingsLimit(redis_client, names, 60, 10**6)
        send = lambda job, priority: sent.append((job.id, job.queue))  # noqa: E731
        return Reaper(redis_client, names, ledger, send, embeddings, holder=holder, every=5, lease=60, level=level)

    return make


def test_the_reaper_leaves_a_newer_job_and_its_message_alone(
    submit_newer, reaper_of, redis_client, names, sent, caplog
):
    newer = submit_newer()
    key = queue_keys(names, "pocket.1")[5]
    redis_client.lpush(key, json.dumps({"headers": {"id": newer.id}}))
    reaper = reaper_of("w1")
    for _ in range(4):
        reaper.run_once()
    assert sent == [] and redis_client.llen(key) == 1
    assert not redis_client.exists(names.state(newer.id))
    assert caplog.text.count(newer.id) == 1


@pytest.mark.parametrize("sweeps", [True, False])
@pytest.mark.parametrize("is_record", [True, False])
@pytest.mark.parametrize("by_batch", [True, False])
def test_a_job_after_a_newer_one_waits_until_that_one_has_ended(
    submit_newer,
    client_ledger,
    make_job,
    reaper_of,
    redis_client,
    names,
    sent,
    monkeypatch,
    by_batch,
    is_record,
    sweeps,
):
    """In rounds that read all jobs and in those that begin with the oldest that has not ended."""
    monkeypatch.setattr(open_jobs, "SWEEP_EVERY", 0.0 if sweeps else 60.0)
    first = make_job(submitter="ann")
    client_ledger.submit(first, Relations(batch="b", item=1))
    state = {"status": "queued", "snapshot": '{"status": "frozen"}'}
    if is_record:
        record = {**json.loads(first.model_dump_json()), "hologram": True}
        redis_client.hset(names.job(first.id), "spec", json.dumps(record))
    else:
        redis_client.hset(names.state(first.id), mapping=state)
    redis_client.zadd(names.jobs(), {first.id: 1})
    follower = make_job(submitter="bob")
    client_ledger.submit(follower, Relations(after_batches=("b",)) if by_batch else Relations(after_jobs=(first.id,)))
    reaper = reaper_of("w1")
    for _ in range(4):
        reaper.run_once()
    assert sent == []
    redis_client.hset(names.state(first.id), "status", "done")
    for _ in range(4):
        reaper.run_once()
    assert {job_id for job_id, _ in sent} == {follower.id}


def test_the_reaper_is_a_worker_that_reads_all_jobs(reaper_of, redis_client, names):
    """An older one would leave a newer job without a message, or with an owner that is gone."""
    old, new, newest = reaper_of("run-a"), reaper_of("run-b", 1), reaper_of("run-c", 3)
    assert old._has_lock() and new._has_lock() and newest._has_lock()
    assert not old._has_lock() and not new._has_lock() and newest._has_lock()
    assert redis_client.get(names.reaper()) == b"run-c+3"
    redis_client.delete(names.reaper())
    assert old._has_lock()
    assert redis_client.get(names.reaper()) == b"run-a", "as older workers write it"
