"""Whose job comes next: what submit decides, and what a look of the reaper does about it."""

import json
import time
from itertools import count
from types import SimpleNamespace

import fakeredis
import pytest

from ltx_client.ledger import Submission
from ltx_client.protocol import events
from ltx_client.protocol.cycle import TurnCycle
from ltx_client.protocol.jobs import Links
from ltx_client.protocol.names import later_queue
from ltx_client.protocol.state import RESULT_TTL, Status
from ltx_client.protocol.transport import PRIORITY_SEPARATOR, queue_keys
from ltx_worker import turns
from ltx_worker.embeddings import EmbeddingsLimit
from ltx_worker.reaper import Reaper
from ltx_worker.unended import Unended

FIRST, LATER = Submission.CREATED, Submission.LATER


@pytest.fixture
def queues(redis_client, names):
    """The messages, as kombu would lay them; a stand-in for Celery's sending."""

    class Queues:
        def __init__(self):
            self.numbers = count()

        def send(self, job, priority, *, later=False):
            queue = names.namespace + (later_queue(job.queue) if later else job.queue)
            key = f"{queue}{PRIORITY_SEPARATOR}{priority}" if priority else queue
            redis_client.lpush(key, json.dumps({"headers": {"id": job.id}, "tag": next(self.numbers)}))

        def held(self, queue):
            """Ids, in the order in which workers get them."""
            lists = [redis_client.lrange(key, 0, -1)[::-1] for key in queue_keys(names, queue)]
            return [json.loads(message)["headers"]["id"] for messages in lists for message in messages]

        def take(self, queue="pocket.1"):
            """What a worker that is free takes next: its job's id."""
            for first, later in zip(queue_keys(names, queue), queue_keys(names, later_queue(queue)), strict=True):
                if message := redis_client.rpop(first) or redis_client.rpop(later):
                    return json.loads(message)["headers"]["id"]
            return None

    return Queues()


@pytest.fixture
def submit(client_ledger, make_job, queues):
    def submit_job(who, priority=5, **fields):
        job = make_job(submitter=who, priority=priority, **fields)
        outcome = client_ledger.submit(job)
        queues.send(job, job.priority, later=outcome is not FIRST)
        return job, outcome

    return submit_job


@pytest.fixture(params=["short queues", "long queues"])
def reaper(request, redis_client, names, ledger, queues, monkeypatch):
    if request.param == "long queues":  # as those of thousands of jobs, which are not read as a whole at every look
        for name, value in (("SHORT", -1), ("PAGE", 2), ("OVERLAP", 1)):
            monkeypatch.setattr(turns, name, value)
    if isinstance(redis_client, fakeredis.FakeRedis):
        monkeypatch.setattr(Reaper, "_notice_restart", lambda reaper: None)  # the fake has no INFO
    return Reaper(
        redis_client,
        names,
        ledger,
        queues.send,
        EmbeddingsLimit(redis_client, names, 60, 10**6),
        worker_id="w1",
        every=5,
        lease=60,
    )


def test_of_a_persons_waiting_jobs_one_is_first(submit, ledger, client_ledger):
    first, outcome = submit("ann")
    assert outcome is FIRST
    assert [submit("ann")[1] for _ in range(3)] == [LATER] * 3
    assert submit("bob")[1] is FIRST
    assert submit("ann", priority=4)[1] is FIRST
    assert submit("ann", predicted_peak=3 * 10**9)[1] is FIRST  # another queue
    assert client_ledger.submit(first) is Submission.EXISTS


def test_jobs_that_wait_no_more_stand_in_nobodys_way(submit, ledger, client_ledger, redis_client, names):
    running, _ = submit("ann")
    cancelled, _ = submit("ann")
    ended, _ = submit("ann")
    ledger.claim(running.id, "w1", "one")
    client_ledger.cancel(cancelled.id)
    ledger.commit(ledger.claim(ended.id, "w1", "one"), events.Failed(error="no"))
    waiting, outcome = submit("ann")
    assert outcome is FIRST
    line = names.waiting("pocket.1", 5, "ann")
    assert redis_client.lrange(line, 0, -1) == [waiting.id.encode()]
    assert 0 < redis_client.ttl(line) <= RESULT_TTL


def test_a_conflicting_submit_takes_no_place_in_line(submit, client_ledger, make_job, redis_client, names):
    job, _ = submit("ann")
    assert client_ledger.submit(make_job(id=job.id, submitter="bob")) is Submission.CONFLICT
    assert redis_client.keys(names.waiting("*", 5, "bob")) == []


def test_people_take_turns_whatever_the_size_of_their_batches(submit, ledger, reaper, queues):
    ann = [submit("ann")[0].id for _ in range(10)]
    bob = [submit("bob")[0].id for _ in range(4)]
    eve = [submit("eve")[0].id]
    urgent = [submit("ann", priority=1)[0].id for _ in range(2)]
    order = []
    while job_id := queues.take():
        order.append(job_id)
        ledger.claim(job_id, "w1", "one")
        reaper.look()
    assert order == [*urgent, ann[0], bob[0], eve[0], ann[1], bob[1], ann[2], bob[2], ann[3], bob[3], *ann[4:]]


def test_an_idle_farm_takes_later_jobs_without_waiting_for_a_look(submit, queues):
    jobs = [submit("ann")[0].id for _ in range(5)]
    assert [queues.take() for _ in range(6)] == [*jobs, None]


def test_a_message_that_is_brought_forward_leaves_its_place(submit, ledger, reaper, queues):
    jobs = [submit("ann")[0].id for _ in range(3)]
    ledger.claim(queues.take(), "w1", "one")
    for _ in range(3):
        reaper.look()
    assert (queues.held("pocket.1"), queues.held("pocket.1.later")) == ([jobs[1]], [jobs[2]])


def test_a_message_that_is_just_being_delivered_is_not_missing(submit, reaper, queues):
    jobs = [submit("ann")[0].id for _ in range(2)]
    queues.take()
    reaper.look()
    assert (queues.held("pocket.1"), queues.held("pocket.1.later")) == ([], [jobs[1]])


def test_jobs_without_a_message_get_one_at_the_second_look(submit, reaper, queues, redis_client, names):
    jobs = [submit("ann")[0].id for _ in range(3)]
    for queue in ("pocket.1", "pocket.1.later"):
        redis_client.delete(*queue_keys(names, queue))
    reaper.look()
    assert queues.take() is None
    for _ in range(3):
        reaper.look()
    assert (queues.held("pocket.1"), queues.held("pocket.1.later")) == (jobs[:1], jobs[1:])


def test_what_is_no_message_is_passed_over(submit, ledger, reaper, queues, redis_client):
    jobs = [submit("ann")[0].id for _ in range(2)]
    redis_client.lpush("test:pocket.1", b"\xff not JSON", b"17", b'{"headers": null}', b"[" * 100_000)
    ledger.claim(jobs[0], "w1", "one")
    reaper.look()
    assert jobs[1] in redis_client.lrange(f"test:pocket.1{PRIORITY_SEPARATOR}5", 0, 0)[0].decode()


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("job", "spec", b'{"protocol": 1}'),
        ("job", "links", b"["),
        ("job", "priority", b"high"),
        ("job", "priority", b"99"),
        ("state", "snapshot", b'{"status": "of a newer version"}'),
    ],
)
def test_a_job_that_cannot_be_read_stands_in_no_others_way(
    submit, reaper, queues, redis_client, names, caplog, kind, field, value
):
    bad, good = submit("ann")[0], submit("bob")[0]
    redis_client.hset(getattr(names, kind)(bad.id), field, value)
    redis_client.zadd(names.jobs(), {b"\xff": 1})
    redis_client.delete(*queue_keys(names, "pocket.1"))
    for _ in range(4):
        reaper.look()
    assert good.id in queues.held("pocket.1")
    assert caplog.text.count("left alone") <= 1


@pytest.mark.parametrize("change", [{"predicted_peak": 10**15}, {"variant": "job:x"}, {"id": "another"}])
def test_a_job_for_which_there_is_no_queue_is_left_alone(submit, reaper, queues, redis_client, names, change):
    bad, good = submit("ann")[0], submit("bob")[0]
    redis_client.hset(names.job(bad.id), "spec", json.dumps({**json.loads(bad.model_dump_json()), **change}))
    redis_client.delete(*queue_keys(names, "pocket.1"))
    for _ in range(4):
        reaper.look()
    assert queues.held("pocket.1") == [good.id]


def test_the_queues_of_a_tier_are_served_by_turns_and_the_first_tier_before_the_second():
    cycle = TurnCycle()
    cycle.update(["a.1", "a.1.later", "a.4", "a.4.later"])
    assert cycle.consume(4) == ["a.1", "a.4", "a.1.later", "a.4.later"]
    cycle.rotate("a.1")
    assert cycle.consume(4) == ["a.4", "a.1", "a.1.later", "a.4.later"]
    cycle.rotate("a.1.later")
    assert cycle.consume(4) == ["a.4", "a.1", "a.4.later", "a.1.later"]


def test_a_look_finds_what_has_not_ended_whatever_was_remembered(
    redis_client, names, ledger, client_ledger, make_job, monkeypatch
):
    unended = Unended(redis_client, names)
    jobs = [make_job() for _ in range(3)]
    for job in jobs:
        client_ledger.submit(job)

    def found():
        return [(found.job.id, found.snapshot.status, found.leased, found.cancel_asked) for found in unended.look()]

    one, two, three = (job.id for job in jobs)
    assert [job_id for job_id, *_ in found()] == [one, two, three]
    attempt = ledger.claim(one, "w1", "one")
    client_ledger.cancel(two)
    assert found() == [
        (one, "running", True, False),
        (two, "queued", False, True),
        (three, "queued", False, False),
    ]
    ledger.commit(attempt, events.Failed(error="no"))
    redis_client.delete(names.lease(three))
    assert [job_id for job_id, *_ in found()] == [two, three]
    redis_client.delete(names.job(one))  # its time ran out
    monkeypatch.setattr("ltx_worker.unended.SWEEP_EVERY", 0)
    unended._sweep_at = 0
    found()
    assert redis_client.zrange(names.jobs(), 0, -1) == [two.encode(), three.encode()]
    redis_client.zadd(names.jobs(), {make_job().id: 1})  # an id without a record
    found()
    assert redis_client.zcard(names.jobs()) == 2


def test_what_a_job_that_nobody_ended_has_left_goes_with_its_record(redis_client, names, ledger, client_ledger, job):
    attempt = ledger.claim(job.id, "w1", "one")
    ledger.emit(attempt, events.Stepped(step=1, steps=8, seconds=1.0), b"jpeg")
    ledger.save(attempt, b"latents")
    ledger.release(attempt, "the worker is shutting down")
    client_ledger.cancel(job.id)
    kept = [names.state(job.id), names.events(job.id), names.latents(job.id)]
    assert redis_client.exists(*kept) == len(kept)
    assert redis_client.ttl(names.state(job.id)) == -1  # the client may not say when a worker's key expires
    redis_client.delete(names.job(job.id))  # its time ran out, and no worker has ever come
    Unended(redis_client, names).look()
    assert redis_client.exists(*kept, names.jobs()) == 0


def test_a_job_that_waits_for_others_gets_its_message_when_they_have_ended(
    submit, client_ledger, make_job, ledger, reaper, queues, redis_client, names
):
    first, _ = submit("ann")
    second = make_job(submitter="ann")
    links = Links(batch="b", item=1)
    assert client_ledger.submit(second, links) is LATER
    queues.send(second, 5, later=True)
    third = make_job(submitter="bob")
    after = Links(after_jobs=(first.id,), after_batches=("b",))
    assert client_ledger.submit(third, after) is Submission.WAITS
    assert client_ledger.submit(third, after) is Submission.EXISTS

    def end(job):
        queues.take()
        ledger.commit(ledger.claim(job.id, "w", "one"), events.Failed(error="no"))
        for _ in range(3):
            reaper.look()

    for _ in range(3):
        reaper.look()
    end(first)
    assert third.id not in queues.held("pocket.1")
    end(second)
    assert queues.held("pocket.1") == [third.id]
    assert queues.take() == third.id


def test_a_job_whose_others_are_gone_does_not_wait_for_ever(client_ledger, make_job, reaper, queues):
    job = make_job()
    client_ledger.submit(job, Links(after_jobs=("long-gone",), after_batches=("never-was",)))
    for _ in range(2):
        reaper.look()
    assert queues.take() == job.id


def test_a_paused_job_gets_no_message_and_no_turn(submit, client_ledger, ledger, reaper, queues):
    paused, _ = submit("ann")
    client_ledger.hold(paused.id)
    assert queues.take() == paused.id
    assert ledger.claim(paused.id, "w", "one") == "held"
    other, outcome = submit("ann")
    assert outcome is FIRST
    for _ in range(3):
        reaper.look()
    assert queues.held("pocket.1") == [other.id]
    client_ledger.unhold(paused.id)
    reaper.look()
    assert queues.held("pocket.1") == [other.id, paused.id]
    assert ledger.claim(paused.id, "w", "one").number == 1


def test_a_changed_priority_moves_the_message(submit, client_ledger, reaper, queues):
    jobs = [submit("ann")[0].id for _ in range(4)]
    client_ledger.set_priority(jobs[2], 1)
    client_ledger.set_priority(jobs[0], 9)
    for _ in range(3):
        reaper.look()
    assert [queues.take() for _ in range(5)] == [jobs[2], jobs[1], jobs[3], jobs[0], None]


def test_wishes_for_what_has_ended_change_nothing(submit, client_ledger, ledger, redis_client, names):
    job, _ = submit("ann")
    ledger.commit(ledger.claim(job.id, "w", "one"), events.Failed(error="no"))
    before = redis_client.hgetall(names.job(job.id))
    assert client_ledger.hold(job.id) == client_ledger.set_priority(job.id, 1) == "failed"
    assert client_ledger.hold("nobody") is None
    assert redis_client.hgetall(names.job(job.id)) == before


def test_after_a_silence_of_the_broker_no_lease_is_held_against_its_owner(
    reaper, submit, ledger, redis_client, names, monkeypatch
):
    """It answers in the end, so that nobody saw it away; but nobody could renew either."""
    job, _ = submit("ann")
    ledger.claim(job.id, "w2", "two")
    redis_client.delete(names.lease(job.id))
    began = time.monotonic()

    def status_after_a_look(seconds):
        monkeypatch.setattr("ltx_worker.reaper.time", SimpleNamespace(monotonic=lambda: began + seconds))
        reaper.look()
        return ledger.read(job.id).status

    looks = {seconds: status_after_a_look(seconds) for seconds in range(40, 110, 5)}
    assert all(status is (Status.RUNNING if seconds < 100 else Status.QUEUED) for seconds, status in looks.items())
