"""Test watchers: whenever one joins, it sees every event once and in order, and knows the end from the state."""

import pytest
from pydantic import SecretStr

from ltx_client.errors import JobNotFound
from ltx_client.farm.farm import Farm
from ltx_client.farm.jobs.views import Follower
from ltx_client.protocol import events
from ltx_client.protocol.events import Result
from ltx_client.protocol.state import Status


@pytest.fixture
def farm(redis_client, names):
    return Farm.over(redis_client, SecretStr("redis://localhost"), names, None)


@pytest.fixture
def attempt(ledger, job):
    return ledger.claim(job.id, "w", "mac")


def finish(ledger, attempt):
    ledger.commit(attempt, events.Done(result=Result(video="a", sidecar="b", size=1, sha256="0")))


def test_a_late_watcher_sees_the_whole_log_and_then_the_end(farm, ledger, attempt):
    for step in (1, 2):
        ledger.emit(attempt, events.Stepped(step=step, steps=2, seconds=1))
    finish(ledger, attempt)
    updates = list(farm.watch(attempt.job_id))
    assert [update.snapshot.seq for update in updates if update.event] == [1, 2, 3, 4]
    assert updates[-1].snapshot.status is Status.DONE


def test_a_watcher_that_joins_in_the_middle_follows_live(farm, ledger, attempt):
    seen = []
    for update in farm.watch(attempt.job_id):
        if update.event is not None:
            seen.append(update.snapshot.seq)
        if len(seen) == 1 and update.event is None and attempt.snapshot.seq == 1:
            ledger.emit(attempt, events.TextEncoded())
            finish(ledger, attempt)
    assert seen == [1, 2, 3]


def test_two_jobs_at_once(farm, ledger, client_ledger, make_job):
    attempts = []
    for _ in range(2):
        job = make_job()
        client_ledger.submit(job)
        attempts.append(ledger.claim(job.id, "w", "mac"))
    for attempt in attempts:
        finish(ledger, attempt)
    ids = [attempt.job_id for attempt in attempts]
    updates = [update for update in farm.watch(*ids) if update.event]
    assert sorted((update.view.job.id, update.snapshot.seq) for update in updates) == sorted(
        (job_id, seq) for job_id in ids for seq in (1, 2)
    )


def test_a_log_that_was_cut_is_stood_for_by_the_state(farm, ledger, attempt, redis_client, names):
    for step in (1, 2, 3):
        ledger.emit(attempt, events.Stepped(step=step, steps=3, seconds=1))
    redis_client.xdel(names.events(attempt.job_id), "1-0", "2-0")
    finish(ledger, attempt)
    last = list(farm.watch(attempt.job_id))[-1]
    assert (last.snapshot.status, last.snapshot.step) == (Status.DONE, 3)


def test_a_log_that_is_gone_is_stood_for_by_the_state(farm, ledger, attempt, redis_client, names):
    finish(ledger, attempt)
    redis_client.delete(names.events(attempt.job_id))
    assert list(farm.watch(attempt.job_id))[-1].snapshot.status is Status.DONE


def test_an_unknown_event_is_skipped_and_counted(farm, attempt):
    follower = Follower()
    view = farm.view(attempt.job_id)
    entries = [
        (1, attempt_event(attempt)),
        (2, b'{"type": "sang", "at": 1}'),
        (3, b'{"type": "text_encoded", "at": 2}'),
    ]
    updates = [update for update in follower.advance(entries, view) if update.event]
    assert [update.snapshot.seq for update in updates] == [1, 3]


def attempt_event(attempt):
    return events.Claimed(attempt=attempt.number, worker="w", worker_name="mac").model_dump_json().encode()


def test_a_cancelled_job_that_never_ran_has_ended_for_its_watchers(farm, job):
    farm.cancel(job.id)
    (update,) = farm.watch(job.id)
    assert update.view.status is Status.CANCELLED


def test_a_job_without_a_lease_is_orphaned(farm, attempt, redis_client, names):
    assert not farm.view(attempt.job_id).orphaned
    redis_client.delete(names.lease(attempt.job_id))
    assert farm.view(attempt.job_id).orphaned


def test_jobs_come_newest_first_and_without_those_whose_time_ran_out(
    farm, client_ledger, make_job, redis_client, names
):
    jobs = [make_job() for _ in range(4)]
    for number, job in enumerate(jobs):
        client_ledger.submit(job)
        redis_client.zadd(names.jobs(), {job.id: number})
    redis_client.delete(names.job(jobs[2].id))
    assert [view.job.id for view in farm.jobs()] == [jobs[3].id, jobs[1].id, jobs[0].id]
    assert [view.job.id for view in farm.jobs(limit=1)] == [jobs[3].id]


def test_a_job_is_found_by_the_end_of_its_id(farm, client_ledger, make_job):
    for job_id in ("night-1111", "night-2222", "day-x2222"):
        client_ledger.submit(make_job(id=job_id))
    assert farm.find("night-2222") == "night-2222"
    assert farm.find("1111") == "night-1111"
    with pytest.raises(JobNotFound, match="2 jobs"):
        farm.find("2222")
    with pytest.raises(JobNotFound, match="no job 111"):
        farm.find("111")
