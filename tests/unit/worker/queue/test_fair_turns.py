"""Test whose job comes next: what submit decides, and what a round of the reaper does about it."""

import json
import random
import time
from collections import defaultdict
from itertools import count, pairwise
from types import SimpleNamespace

import fakeredis
import pytest
import redis
from pydantic import SecretStr

from ltx_client.farm.farm import Farm
from ltx_client.farm.ledger.removal import RemovalExchanges
from ltx_client.farm.ledger.scripts import Submission
from ltx_client.protocol import events
from ltx_client.protocol.events import Result
from ltx_client.protocol.jobs import NO_RELATIONS, Relations
from ltx_client.protocol.names import queue_name
from ltx_client.protocol.state import Snapshot, Status
from ltx_client.shared.broker.exchange import run
from ltx_client.shared.celery.celery_settings import PRIORITY_SEPARATOR, queue_keys
from ltx_models.memory import MEMORY_CLASSES
from ltx_worker.ledger.embeddings_cache import EmbeddingsLimit
from ltx_worker.ledger.ledger import Claim, Refusal, Turn
from ltx_worker.machine.health import Fitness
from ltx_worker.queue import claiming
from ltx_worker.queue.claiming import TurnTaker
from ltx_worker.queue.open_jobs import OpenJobs
from ltx_worker.queue.reaper import Reaper


@pytest.fixture
def queues(redis_client, names):
    """Provide the messages, as kombu stores them, and a replacement for Celery's sending."""

    class Queues:
        def __init__(self):
            self.numbers = count()

        def send(self, job, priority):
            key = queue_keys(names, job.queue)[priority]
            redis_client.lpush(key, json.dumps({"headers": {"id": job.id}, "tag": next(self.numbers)}))

        def messages(self, *queues):
            """Return ids, in the order in which workers get them."""
            lists = [redis_client.lrange(key, 0, -1)[::-1] for queue in queues for key in queue_keys(names, queue)]
            return [json.loads(message)["headers"]["id"] for messages in lists for message in messages]

        def take(self, *queues):
            for keys in zip(*(queue_keys(names, queue) for queue in queues or ("pocket.1",)), strict=True):
                for key in keys:
                    if message := redis_client.rpop(key):
                        return json.loads(message)["headers"]["id"]
            return None

    return Queues()


@pytest.fixture
def submit(client_ledger, make_job, queues):
    """Submit as a client does: the record, then the message."""

    def submit_job(who, priority=5, relations=NO_RELATIONS, **fields):
        job = make_job(submitter=who, priority=priority, **fields)
        outcome = client_ledger.submit(job, relations)
        if outcome is Submission.CREATED:
            queues.send(job, job.priority)
        return job

    return submit_job


@pytest.fixture
def begin(ledger, queues):
    """Take a message as a free worker does, and begin the job whose turn it is; return its id, or None."""

    def begin_next(worker="w1", name="one", budget_gb=1, variant="pocket"):
        classes = [size for size in MEMORY_CLASSES if size <= budget_gb]
        while job_id := queues.take(*(queue_name(variant, size) for size in classes)):
            turn = ledger.next(worker, name, variant, budget_gb, cancelled=job_id)
            if isinstance(turn, Turn):
                attempt = ledger.claim(turn.job_id, worker, name, variant, budget_gb=budget_gb, turn=turn)
                if isinstance(attempt, Claim):
                    return attempt.job_id
        return None

    return begin_next


NOTICE_RESTART = Reaper._notice_restart


@pytest.fixture
def reaper(redis_client, names, ledger, queues, monkeypatch):
    if isinstance(redis_client, fakeredis.FakeRedis):
        monkeypatch.setattr(Reaper, "_notice_restart", lambda reaper: None)  # the fake has no INFO
    return Reaper(
        redis_client,
        names,
        ledger,
        queues.send,
        EmbeddingsLimit(redis_client, names, 60, 10**6),
        holder="w1",
        every=5,
        lease=60,
    )


def starts(begin, **worker):
    """Return the jobs in the order in which they begin, until none is left."""
    return list(iter(lambda: begin(**worker), None))


def test_who_comes_later_has_turns_at_once(submit, begin):
    """With quick jobs no reaper runs in between."""
    ann = [submit("ann").id for _ in range(60)]
    first = [begin() for _ in range(3)]
    bob = [submit("bob").id for _ in range(10)]
    assert first == ann[:3]
    turns = [job_id for pair in zip(ann[3:13], bob, strict=True) for job_id in pair]
    assert starts(begin) == [*turns, *ann[13:]]


def test_of_two_with_hundreds_of_jobs_none_is_ahead(submit, begin):
    """It is smaller here: 1,200 jobs on a real server are in tests/integration."""
    people = {submit(who).id: who for who in ("ann", "bob") for _ in range(60)}
    assert [people[job_id] for job_id in starts(begin)] == ["ann", "bob"] * 60


@pytest.mark.parametrize("order", ["one after the other", "in turns", "at random"])
@pytest.mark.parametrize("counts", [(1, 30), (7, 7, 7), (1, 1, 1, 1, 30), tuple(range(1, 11))])
def test_nobody_waits_longer_than_one_turn_of_everybody(submit, begin, order, counts):
    plan = [f"p{person}" for person, many in enumerate(counts) for _ in range(many)]
    if order == "in turns":
        plan = [f"p{person}" for lap in range(max(counts)) for person, many in enumerate(counts) if lap < many]
    elif order == "at random":
        random.Random(1).shuffle(plan)
    owner, own = {}, defaultdict(list)
    for who in plan:
        job_id = submit(who).id
        owner[job_id] = who
        own[who].append(job_id)
    order_of_starts = starts(begin)
    assert sorted(order_of_starts) == sorted(owner)
    for who, jobs in own.items():
        places = [order_of_starts.index(job_id) for job_id in jobs]
        assert places == sorted(places), f"{who}'s own jobs begin in their order"
        waits = [later - earlier for earlier, later in pairwise([-1, *places])]
        assert max(waits) <= len(counts), (who, places)


def test_a_single_job_among_hundreds_is_next_but_one(submit, begin):
    for _ in range(200):
        submit("ann")
    begin()
    bob = submit("bob").id
    assert bob in (begin(), begin())


def test_one_who_submits_again_and_again_is_never_twice_in_a_row(submit, begin):
    people = {submit("ann").id: "ann" for _ in range(10)} | {submit("bob").id: "bob" for _ in range(10)}
    seen = []
    for _ in range(10):
        people[submit("eve").id] = "eve"
        seen += [people[begin()], people[begin()], people[begin()]]
    assert [seen[at : at + 3].count("eve") for at in range(0, 30, 3)] == [1] * 10
    assert all(who != following for who, following in pairwise(seen))


def test_turns_are_of_people_whatever_their_jobs_need(submit, begin):
    """Ann's are of three memory classes, bob's of one; each has a queue of its own."""
    people = {submit("ann", predicted_peak=gb * 10**9).id: "ann" for gb in (1, 3, 7) * 4}
    people |= {submit("bob").id: "bob" for _ in range(12)}
    assert [people[job_id] for job_id in starts(begin, budget_gb=8)] == ["ann", "bob"] * 12


def test_a_small_worker_passes_over_what_is_too_large(submit, begin):
    large = [submit("ann", predicted_peak=7 * 10**9).id for _ in range(60)]
    small = [submit("ann").id for _ in range(2)]
    assert starts(begin) == small
    assert starts(begin, budget_gb=8) == large


def test_priorities_come_first_and_have_turns_of_their_own(submit, begin):
    names = {submit("ann").id: "ann" for _ in range(3)}
    names |= {submit("bob", priority=1).id: "bob 1" for _ in range(2)}
    names |= {submit("ann", priority=1).id: "ann 1" for _ in range(2)}
    names |= {submit("eve", priority=9).id: "eve 9" for _ in range(1)}
    assert [names[job_id] for job_id in starts(begin)] == [*["bob 1", "ann 1"] * 2, *["ann"] * 3, "eve 9"]


def test_jobs_that_wait_no_more_take_nobodys_turn(submit, begin, ledger, client_ledger, redis_client, names):
    cancelled, paused, gone, waiting = (submit("ann") for _ in range(4))
    bob = submit("bob")
    client_ledger.cancel(cancelled.id)
    client_ledger.pause(paused.id)
    redis_client.delete(names.job(gone.id))
    assert starts(begin) == [waiting.id, bob.id]
    assert ledger.read(cancelled.id).status is Status.CANCELLED
    assert redis_client.keys(names.line("pocket", "*")) == []
    assert redis_client.exists(names.turns("pocket")) == 0


def test_a_conflicting_submit_takes_no_place_in_line(submit, client_ledger, make_job, redis_client, names):
    job = submit("ann")
    assert client_ledger.submit(make_job(id=job.id, submitter="bob")) is Submission.CONFLICT
    assert redis_client.keys(names.line("pocket", "*bob")) == []


def test_a_job_that_was_given_back_comes_first(submit, begin, ledger):
    jobs = [submit("ann") for _ in range(3)]
    submit("bob")
    turn = ledger.next("w1", "one", "pocket", 1)
    attempt = ledger.claim(turn.job_id, "w1", "one", "pocket", turn=turn)
    ledger.release(attempt, "the worker is shutting down")
    assert begin() == attempt.job_id == jobs[0].id


def test_a_worker_that_dies_between_turn_and_claim_loses_nothing(submit, begin, ledger, reaper, queues):
    """The job waits on, behind its submitter's others."""
    jobs = [submit("ann").id for _ in range(3)]
    queues.take()
    assert ledger.next("w1", "one", "pocket", 1).job_id == jobs[0]
    reaper.run_once()
    reaper.run_once()
    assert starts(begin) == [*jobs[1:], jobs[0]]


def test_workers_that_are_free_at_once_take_different_jobs(submit, ledger):
    jobs = [submit("ann").id for _ in range(5)]
    assert [ledger.next(f"w{n}", "mac", "pocket", 1).job_id for n in range(5)] == jobs


@pytest.mark.parametrize(
    ("turn", "score"),
    [
        ("x:evil", -1e18),
        ("x:evil", 5e12),
        ("evil", 0),
        ("", 0),
        (b"\xff:\x00", 0),
        ("5:zz", 6e12 - 1),
        ("5:zz", 6e12 - 2),
        ("5:zz", 1e300),
        ("5:zz", float("inf")),
        ("5:zz", -1),
        ("1:zz", 5e12 + 1),
        ("9:zz", 0),
    ],
)
def test_whatever_stands_in_the_index_of_turns_people_have_theirs(submit, begin, redis_client, names, turn, score):
    """Everybody who may submit a job may write there."""
    member = turn if isinstance(turn, bytes) else turn.encode()
    redis_client.zadd(names.turns("pocket"), {member: score})
    redis_client.zadd(names.line("pocket", "").encode() + member, {"99:nothing": 0})
    jobs = {person: [submit(person).id for _ in range(4)] for person in ("bob", "ann")}
    order = starts(begin)
    assert order == [job for pair in zip(jobs["bob"], jobs["ann"], strict=True) for job in pair]
    later = [submit(person).id for person in ("bob", "ann", "bob", "ann")]
    assert starts(begin) == later


def test_jobs_that_are_kept_from_a_worker_cost_the_broker_little(submit, ledger, client_ledger, redis_client):
    """They are all examined, but nothing large is read of them; a cancelled one leaves the line."""
    kept = [submit("ann", relations=Relations(not_on=("one",))) for _ in range(300)]
    for job in kept[:100]:
        client_ledger.cancel(job.id)
    counts = type(redis_client) is redis.Redis  # a real server's
    if counts:
        redis_client.config_resetstat()
    assert ledger.next("w1", "one", "pocket", 1) is None
    assert not counts or redis_client.info("commandstats")["cmdstat_hmget"]["calls"] <= 300 + 5
    assert redis_client.zcard(ledger._names.line("pocket", "5:ann")) == 200


def test_a_worker_that_finds_nothing_leaves_the_broker_alone_for_a_while(monkeypatch):
    rests, clock = [], iter((0.0, 0.1, 10.0, 15.0))
    leaving = SimpleNamespace(wait=rests.append, is_set=lambda: False)
    heartbeat = SimpleNamespace(worker_id="w", worker_name="one", variant="pocket")
    health = SimpleNamespace(fitness=Fitness.FIT, left_to_others=set)
    taker = TurnTaker(SimpleNamespace(next=lambda *_, **__: None), heartbeat, health, None, leaving, budget_gb=1)
    monkeypatch.setattr(claiming, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert taker.take("job") is taker.take("job") is None
    assert rests == [pytest.approx(1.0), 2.0]


def test_a_job_that_the_gpu_cannot_hold_waits_for_another_worker(submit, ledger, monkeypatch):
    """It stays in its line, and the job after it begins."""
    large, small = submit("ann"), submit("ann")
    monkeypatch.setattr(claiming, "fits_gpu", lambda job, gpu_gb: gpu_gb > 11 or job.id == small.id)
    heartbeat = SimpleNamespace(worker_id="w", worker_name="one", variant="pocket")
    health = SimpleNamespace(fitness=Fitness.FIT, left_to_others=set)
    leaving = SimpleNamespace(wait=lambda seconds: None, is_set=lambda: False)

    def taken(gpu_gb):
        taker = TurnTaker(ledger, heartbeat, health, None, leaving, budget_gb=512, gpu_gb=gpu_gb)
        attempt = taker.take(large.id)
        return attempt and attempt.job_id

    assert [taken(10.0), taken(10.0), taken(12.0)] == [small.id, None, large.id]


def test_a_worker_is_not_given_what_is_kept_from_it(submit, begin, reaper):
    kept = [submit("ann", relations=Relations(not_on=(name,))).id for name in ("one", "w1")]
    for_all = submit("ann").id
    assert starts(begin) == [for_all]
    reaper.run_once()
    reaper.run_once()
    assert starts(begin, worker="w2", name="two") == kept


def test_keys_of_the_index_that_are_something_else_are_made_anew(submit, begin, reaper, redis_client, names):
    jobs = [submit("ann").id for _ in range(2)]
    bob = submit("bob").id
    redis_client.set(names.line("pocket", "5:ann"), "x")
    assert begin() == bob
    redis_client.set(names.turns("pocket"), "x")
    assert submit("bob")
    reaper.run_once()
    assert begin() in jobs
    redis_client.set(names.line("pocket", "5:ann"), "y")
    redis_client.delete(names.turns("pocket"))
    reaper._turns._enter_all_at = 0.0
    reaper.run_once()
    reaper.run_once()
    assert len(starts(begin)) == 2


@pytest.mark.parametrize("kind", ["job", "state"])
def test_a_key_of_another_type_takes_nobodys_turn(submit, begin, redis_client, names, kind):
    bad, good = submit("ann"), submit("bob")
    key = getattr(names, kind)(bad.id)
    redis_client.delete(key)
    redis_client.set(key, "x")
    assert starts(begin) == [good.id]


def test_entries_of_a_line_that_are_none_are_removed(submit, begin, redis_client, names):
    good = submit("ann")
    redis_client.zadd(names.line("pocket", "5:ann"), {b"\xff": 0, b"": 1, b"1:": 2, b"x:y": 3, b"1:nobody": 4})
    assert starts(begin) == [good.id]


def test_a_message_that_is_just_being_delivered_is_not_missing(submit, reaper, queues):
    jobs = [submit("ann").id for _ in range(2)]
    queues.take()
    reaper.run_once()
    assert queues.messages("pocket.1") == jobs[1:]


def test_messages_that_were_lost_are_sent_at_the_second_look(submit, reaper, queues, redis_client, names, begin):
    jobs = [submit("ann").id for _ in range(3)]
    redis_client.delete(*queue_keys(names, "pocket.1"))
    reaper.run_once()
    assert queues.take() is None
    for _ in range(3):
        reaper.run_once()
    assert queues.messages("pocket.1") == jobs
    assert starts(begin) == jobs


def test_an_index_that_was_lost_is_made_anew(submit, reaper, redis_client, names, begin):
    ann, bob = ([submit(who).id for _ in range(2)] for who in ("ann", "bob"))
    redis_client.delete(names.turns("pocket"), *redis_client.keys(names.line("pocket", "*")))
    reaper.run_once()
    assert starts(begin) == [ann[0], bob[0], ann[1], bob[1]]


def test_what_is_no_message_is_passed_over(submit, reaper, queues, redis_client, begin):
    jobs = [submit("ann").id for _ in range(2)]
    redis_client.delete(f"test:pocket.1{PRIORITY_SEPARATOR}5")
    redis_client.lpush("test:pocket.1", b"\xff not JSON", b"17", b'{"headers": null}', b"[" * 100_000)
    reaper.run_once()
    redis_client.delete("test:pocket.1")  # as the workers set them aside
    reaper.run_once()
    reaper.run_once()
    assert starts(begin) == jobs


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
    bad, good = submit("ann"), submit("bob")
    redis_client.hset(getattr(names, kind)(bad.id), field, value)
    redis_client.zadd(names.jobs(), {b"\xff": 1})
    redis_client.delete(*queue_keys(names, "pocket.1"))
    for _ in range(4):
        reaper.run_once()
    assert good.id in queues.messages("pocket.1")
    assert caplog.text.count("skipped") <= 1


@pytest.mark.parametrize("change", [{"predicted_peak": 10**15}, {"variant": "job:x"}, {"id": "another"}])
def test_a_job_for_which_there_is_no_queue_is_left_alone(submit, reaper, queues, redis_client, names, change):
    bad, good = submit("ann"), submit("bob")
    redis_client.hset(names.job(bad.id), "spec", json.dumps({**json.loads(bad.model_dump_json()), **change}))
    redis_client.delete(*queue_keys(names, "pocket.1"))
    for _ in range(4):
        reaper.run_once()
    assert queues.messages("pocket.1") == [good.id]


def test_a_look_finds_what_has_not_ended_whatever_was_remembered(
    redis_client, names, ledger, client_ledger, make_job, monkeypatch
):
    open_jobs = OpenJobs(redis_client, names)
    jobs = [make_job() for _ in range(3)]
    for job in jobs:
        client_ledger.submit(job)

    def found():
        return [(found.job.id, found.snapshot.status, found.leased, found.cancel_asked) for found in open_jobs.read()]

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
    monkeypatch.setattr("ltx_worker.queue.open_jobs.SWEEP_EVERY", 0)
    open_jobs._sweep_at = 0
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
    OpenJobs(redis_client, names).read()
    assert redis_client.exists(*kept, names.jobs()) == 0


def test_what_gc_forgets_workers_free_and_a_new_job_of_that_id_is_none_of_it(
    redis_client, names, ledger, client_ledger, make_job
):
    old, again, kept = (make_job() for _ in range(3))
    for job in (old, again, kept):
        client_ledger.submit(job)
        attempt = ledger.claim(job.id, "w", "one")
        ledger.emit(attempt, events.Stepped(step=1, steps=2, seconds=1.0), b"preview")
        ledger.commit(attempt, events.Done(result=Result(video="v", sidecar="s", size=1, sha256="0" * 64)))
    removals = RemovalExchanges(names)
    for job in (old, again):
        submitted_at = int(redis_client.hget(names.job(job.id), "submitted_at")) / 1000
        assert run(redis_client, removals.forget(job.id, submitted_at))
    redis_client.delete(names.state(again.id), names.events(again.id), names.preview(again.id), names.result(again.id))
    open_jobs = OpenJobs(redis_client, names)
    drop = open_jobs._drop

    def drop_a_moment_later(**options):
        assert client_ledger.submit(again) == "created"
        return drop(**options)

    open_jobs._drop = drop_a_moment_later
    open_jobs.read()
    assert list(redis_client.scan_iter(f"*{old.id}*")) == []
    assert set(redis_client.zrange(names.jobs(), 0, -1)) == {again.id.encode(), kept.id.encode()}
    assert redis_client.exists(names.job(again.id), names.state(kept.id), names.result(kept.id)) == 3


def test_a_job_that_waits_for_others_begins_when_they_have_ended(submit, ledger, reaper, queues, begin, client_ledger):
    first = submit("ann")
    second = submit("ann", relations=Relations(batch="b", item=1))
    after = Relations(after_jobs=(first.id,), after_batches=("b",))
    third = submit("bob", relations=after)
    assert client_ledger.submit(third, after) is Submission.EXISTS
    queues.send(third, 5)  # a message too many does not have it begin
    reaper.run_once()
    assert starts(begin) == [first.id, second.id]
    for job in (first, second):
        assert queues.messages("pocket.1") == []
        reaper.run_once()
        attempt = Claim(job.id, 1, "", Snapshot())
        attempt.token = ledger._client.hget(ledger._names.state(job.id), "token").decode()
        ledger.refresh(attempt)
        ledger.commit(attempt, events.Failed(error="no"))
    reaper.run_once()
    assert starts(begin) == [third.id]


def test_a_job_whose_others_are_gone_does_not_wait_for_ever(client_ledger, make_job, reaper, begin):
    job = make_job()
    client_ledger.submit(job, Relations(after_jobs=("long-gone",), after_batches=("never-was",)))
    for _ in range(2):
        reaper.run_once()
    assert begin() == job.id


def test_a_paused_job_gets_no_message_and_no_turn(submit, client_ledger, reaper, queues, begin):
    paused = submit("ann")
    client_ledger.pause(paused.id)
    assert begin() is None
    other = submit("ann")
    for _ in range(3):
        reaper.run_once()
    assert queues.messages("pocket.1") == [other.id]
    client_ledger.unpause(paused.id)
    reaper.run_once()
    assert starts(begin) == [paused.id, other.id]  # it keeps the place of its submission


def test_a_changed_priority_counts_at_once(submit, client_ledger, begin):
    jobs = [submit("ann").id for _ in range(4)]
    bob = submit("bob").id
    client_ledger.set_priority(jobs[2], 1)
    client_ledger.set_priority(jobs[0], 9)
    client_ledger.set_priority(jobs[3], 0)
    client_ledger.set_priority(jobs[3], 7)
    assert starts(begin) == [jobs[2], jobs[1], bob, jobs[3], jobs[0]]


def test_a_priority_that_an_older_client_changed_counts_after_a_look(submit, redis_client, names, reaper, begin):
    jobs = [submit("ann").id for _ in range(3)]
    redis_client.hset(names.job(jobs[2]), "priority", 1)
    reaper.run_once()
    assert starts(begin) == [jobs[2], *jobs[:2]]


def test_wishes_for_what_has_ended_change_nothing(submit, client_ledger, ledger, redis_client, names):
    job = submit("ann")
    ledger.commit(ledger.claim(job.id, "w", "one"), events.Failed(error="no"))
    before = redis_client.hgetall(names.job(job.id))
    assert client_ledger.pause(job.id) == client_ledger.set_priority(job.id, 1) == "failed"
    assert client_ledger.pause("nobody") is None
    assert redis_client.hgetall(names.job(job.id)) == before


def test_after_a_silence_of_the_broker_no_lease_is_held_against_its_owner(
    reaper, submit, ledger, redis_client, names, monkeypatch
):
    """It answers in the end, so that nobody noticed an outage; but nobody could renew either."""
    job = submit("ann")
    ledger.claim(job.id, "w2", "two")
    redis_client.delete(names.lease(job.id))
    began = time.monotonic()

    def status_after_a_look(seconds):
        monkeypatch.setattr("ltx_worker.queue.reaper.time", SimpleNamespace(monotonic=lambda: began + seconds))
        reaper.run_once()
        return ledger.read(job.id).status

    looks = {seconds: status_after_a_look(seconds) for seconds in range(40, 110, 5)}
    assert all(status is (Status.RUNNING if seconds < 100 else Status.QUEUED) for seconds, status in looks.items())


@pytest.mark.parametrize("seed", range(4))
def test_a_forecast_says_in_which_order_they_begin(
    submit, begin, client_ledger, ledger, redis_client, names, reaper, seed
):
    """Before that, jobs were submitted, begun, given back, paused and given another priority."""
    chance = random.Random(seed)
    farm = Farm.over(redis_client, SecretStr("redis://localhost"), names, None)
    jobs = [submit(f"p{chance.randrange(4)}", priority=chance.choice((4, 5, 5, 5))) for _ in range(25)]
    for _ in range(chance.randrange(8)):
        begin()
    turn = ledger.next("w1", "one", "pocket", 1)
    ledger.release(ledger.claim(turn.job_id, "w1", "one", "pocket", turn=turn), "the worker is shutting down")
    for job in chance.sample(jobs, 4):
        client_ledger.set_priority(job.id, chance.randrange(3, 7))
    client_ledger.pause(jobs[-1].id)
    jobs += [submit(f"p{chance.randrange(6)}") for _ in range(10)]
    reaper.run_once()
    reaper.run_once()
    foretold = sorted(farm.places().items(), key=lambda pair: pair[1].ahead)
    assert [job_id for job_id, _ in foretold] == starts(begin)


@pytest.mark.parametrize("fields", [{"variant": "distilled"}, {"predicted_peak": 7 * 10**9}])
@pytest.mark.parametrize("how", ["its message", "its line", "both"])
def test_a_job_that_was_led_to_the_wrong_worker_finds_the_right_one(
    make_job, client_ledger, queues, begin, reaper, redis_client, names, ledger, how, fields
):
    """A message in another queue, or an entry in the line of another variant or memory class, led to it."""
    job = make_job(submitter="ann", **fields)
    client_ledger.submit(job)
    if how != "its line":
        for _ in range(3):
            redis_client.lpush(queue_keys(names, "pocket.1")[5], json.dumps({"headers": {"id": job.id}}))
    else:
        queues.send(job, 5)
    if how != "its message":
        redis_client.zadd(names.line("pocket", "5:ann"), {f"1:{job.id}": 1})
        redis_client.zadd(names.turns("pocket"), {"5:ann": 1})
        queues.send(make_job(id=job.id), 5)
    assert begin() is None
    assert ledger.read(job.id).status is Status.QUEUED
    assert ledger.claim(job.id, "w1", "one", "pocket", budget_gb=1) is Refusal.ELSEWHERE
    if how != "its message":
        turn = ledger.next("w1", "one", "pocket", 1)
        assert turn is not None
        ledger.drop(turn)
        assert ledger.next("w1", "one", "pocket", 1) is None
    looks = 0
    while begin(worker="w2", name="two", budget_gb=36, variant=job.variant) != job.id:
        looks += 1
        assert looks <= 2, "the reaper sends one message, at its second look"
        reaper.run_once()
    for _ in range(3):
        reaper.run_once()
    assert queues.messages("pocket.1", job.queue) == [], "nothing goes back and forth"


def test_a_job_that_had_ended_and_runs_after_a_restart_that_lost_it_is_brought_to_a_worker(
    submit, begin, ledger, reaper, redis_client, names, monkeypatch
):
    """The server's log has lost the commit, and the reaper remembers that the job had ended."""
    job = submit("ann")
    run = {"run_id": "first"}
    monkeypatch.setattr(redis_client, "info", lambda *_: dict(run))
    monkeypatch.setattr(Reaper, "_notice_restart", NOTICE_RESTART)
    attempt = ledger.claim(job.id, "w1", "one", "pocket")
    assert isinstance(attempt, Claim)
    before = redis_client.hgetall(names.state(job.id))
    ledger.commit(attempt, events.Failed(error="x"))
    reaper.run_once()
    redis_client.delete(names.state(job.id), names.lease(job.id), names.events(job.id))
    redis_client.hset(names.state(job.id), mapping=before)
    run["run_id"] = "second"
    reaper.run_once()
    assert ledger.read(job.id).status is Status.RUNNING, "its owner has a lease's time to come back"
    reaper._suspended_until = 0.0
    reaper.run_once()
    assert ledger.read(job.id).status is Status.QUEUED
