"""Test the ledger's scripts, run in process: what each refuses, and that sending one twice changes nothing."""

import dataclasses
import time

import pytest
import redis

from ltx_client.farm.ledger.scripts import Submission
from ltx_client.protocol import events
from ltx_client.protocol.events import Result
from ltx_client.protocol.state import RESULT_TTL, Snapshot, Stage, Status, apply
from ltx_client.shared.unexpected_data import tell_once
from ltx_models.families.stages import Stage as StageRow
from ltx_models.families.variants import VARIANTS, find_variant
from ltx_worker.ledger.ledger import PREVIEW_TTL, Claim, Ledger, Refusal, StaleAttempt, Strike, Verdict

RESULT = Result(video="a.mp4", sidecar="a.json", size=3, sha256="00")


def snapshot_of(redis_client, names, job):
    return Snapshot.model_validate_json(redis_client.hget(names.state(job.id), "snapshot"))


def test_submitting_twice_is_one_job(client_ledger, redis_client, names, make_job):
    job = make_job()
    assert client_ledger.submit(job) is Submission.CREATED
    first = redis_client.hgetall(names.job(job.id))
    assert client_ledger.submit(job) is Submission.EXISTS
    assert redis_client.hgetall(names.job(job.id)) == first
    assert redis_client.zcard(names.jobs()) == 1


def test_another_job_under_a_used_id_is_refused(client_ledger, redis_client, names, make_job):
    job = make_job()
    client_ledger.submit(job)
    assert client_ledger.submit(make_job(id=job.id, priority=0)) is Submission.CONFLICT
    assert redis_client.hget(names.job(job.id), "spec").decode() == job.model_dump_json()


def test_the_record_keeps_empty_lists_and_order(client_ledger, redis_client, names, make_job):
    job = make_job()
    client_ledger.submit(job)
    stored = redis_client.hget(names.job(job.id), "spec")
    assert type(job).model_validate_json(stored) == job


def test_claim_grants_one_attempt_and_refuses_the_second(ledger, job, redis_client, names):
    attempt = ledger.claim(job.id, "w1", "one")
    assert isinstance(attempt, Claim)
    assert (attempt.number, ledger.job(attempt)) == (1, job)
    assert ledger.claim(job.id, "w2", "two") is Refusal.LEASED
    assert redis_client.get(names.lease(job.id)).decode() == attempt.token
    assert snapshot_of(redis_client, names, job).worker == "w1"
    assert redis_client.xlen(names.events(job.id)) == 1


ROW = StageRow(name="dream", label="dreaming", counts="dream")


@pytest.mark.parametrize(
    "stages",
    [
        (ROW, dataclasses.replace(ROW, of=lambda request: request.dreams)),
        (ROW, dataclasses.replace(ROW, of=lambda request: -1)),
        (dataclasses.replace(ROW, label=None),),
        (ROW,) * (events.MOST_STAGES + 1),
    ],
)
def test_a_family_with_wrong_rows_does_not_keep_its_jobs_from_being_claimed(
    ledger, client_ledger, make_job, monkeypatch, caplog, stages
):
    pocket = find_variant("pocket")
    broken = dataclasses.replace(pocket, family=dataclasses.replace(pocket.family, stages=stages))
    monkeypatch.setitem(VARIANTS.data, "pocket", broken)
    tell_once.cache_clear()
    for _ in range(2):
        job = make_job()
        client_ledger.submit(job)
        assert ledger.claim(job.id, "w1", "one").snapshot.stages == ()
    assert caplog.text.count("the stages of variant pocket are left out") == 1


def test_claim_of_an_unknown_job_writes_nothing(ledger, redis_client):
    assert ledger.claim("nothing", "w1", "one") is Refusal.GONE
    assert redis_client.keys("*") == []


@pytest.mark.parametrize(("field", "value"), [("snapshot", "{"), ("attempt", 7)])
def test_a_job_whose_state_does_not_hold_together_is_claimed_by_nobody(ledger, job, redis_client, names, field, value):
    attempt = ledger.claim(job.id, "w1", "one")
    ledger.release(attempt, "the worker is shutting down")
    redis_client.hset(names.state(job.id), field, value)
    assert ledger.claim(job.id, "w2", "two") is Refusal.UNREADABLE
    assert not any(owner.ended for owner in ledger.ownership([job.id]).values())


def test_claim_ends_a_job_whose_cancel_was_asked(ledger, client_ledger, job, redis_client, names):
    assert client_ledger.cancel(job.id) is Status.QUEUED
    assert ledger.claim(job.id, "w1", "one") is Refusal.CANCELLED
    assert snapshot_of(redis_client, names, job).status is Status.CANCELLED
    assert ledger.claim(job.id, "w1", "one") is Refusal.ENDED
    assert redis_client.ttl(names.job(job.id)) > 0


def test_a_lapsed_lease_is_taken_by_the_next_attempt_and_fences_the_first(ledger, job, redis_client, names):
    first = ledger.claim(job.id, "w1", "one")
    redis_client.delete(names.lease(job.id))
    second = ledger.claim(job.id, "w2", "two")
    assert second.number == 2
    before = redis_client.hgetall(names.state(job.id))
    writes = [
        lambda: ledger.renew(first),
        lambda: ledger.emit(first, events.TextEncoded()),
        lambda: ledger.commit(first, events.Done(result=RESULT)),
        lambda: ledger.release(first, "late"),
        lambda: ledger.save(first, b"latents"),
    ]
    for write in writes:
        with pytest.raises(StaleAttempt):
            write()
    assert redis_client.hgetall(names.state(job.id)) == before
    assert redis_client.get(names.lease(job.id)).decode() == second.token
    assert not redis_client.exists(names.result(job.id))


def test_renew_takes_back_a_lapsed_lease_that_nobody_claimed(ledger, job, redis_client, names):
    attempt = ledger.claim(job.id, "w1", "one")
    redis_client.delete(names.lease(job.id))
    assert ledger.renew(attempt) is Verdict.CONTINUE
    assert 0 < redis_client.pttl(names.lease(job.id)) <= 60_000


def test_events_are_numbered_without_gaps_and_the_snapshot_follows(ledger, job, redis_client, names):
    attempt = ledger.claim(job.id, "w1", "one")
    for step in (1, 2, 3):
        assert ledger.emit(attempt, events.Stepped(step=step, steps=3, seconds=2.0)) is Verdict.CONTINUE
    log = redis_client.xrange(names.events(job.id))
    assert [entry for entry, _ in log] == [b"1-0", b"2-0", b"3-0", b"4-0"]
    replayed = Snapshot()
    for _, fields in log:
        replayed = apply(replayed, events.parse_event(fields[b"event"]))
    assert replayed == attempt.snapshot == snapshot_of(redis_client, names, job)
    assert (replayed.step, replayed.stage, replayed.step_seconds) == (3, Stage.DECODING, 2.0)


def test_an_event_sent_twice_is_written_once(ledger, job, redis_client, names):
    attempt = ledger.claim(job.id, "w1", "one")
    before = attempt.snapshot
    event = events.Stepped(step=1, steps=3, seconds=1.0)
    ledger.emit(attempt, event)
    attempt.snapshot = before  # as after a lost reply
    assert ledger.emit(attempt, event) is Verdict.CONTINUE
    assert redis_client.xlen(names.events(job.id)) == 2


@pytest.fixture
def rolled_back(ledger, job, redis_client, names):
    """Return an attempt at step 3, on a server that came back as it was at step 1."""
    attempt = ledger.claim(job.id, "w1", "one")
    ledger.emit(attempt, events.Stepped(step=1, steps=9, seconds=1.0))
    kept = redis_client.hgetall(names.state(job.id))
    for step in (2, 3):
        ledger.emit(attempt, events.Stepped(step=step, steps=9, seconds=1.0))
    redis_client.hset(names.state(job.id), mapping=kept)
    redis_client.delete(names.events(job.id))
    return attempt


def test_after_a_server_lost_its_last_writes_the_owner_goes_on_from_what_is_left(
    ledger, job, redis_client, names, rolled_back
):
    ledger.emit(rolled_back, events.Stepped(step=4, steps=9, seconds=1.0))
    assert rolled_back.snapshot == snapshot_of(redis_client, names, job)
    assert (rolled_back.snapshot.seq, rolled_back.snapshot.step) == (3, 4)
    assert [entry for entry, _ in redis_client.xrange(names.events(job.id))] == [b"3-0"]


def test_after_a_server_lost_its_last_writes_the_owner_ends_the_job(ledger, job, redis_client, names, rolled_back):
    ledger.commit(rolled_back, events.Failed(error="no"))
    assert snapshot_of(redis_client, names, job).status is Status.FAILED


def test_after_a_server_lost_its_last_writes_the_owner_gives_the_job_back(ledger, job, rolled_back):
    assert ledger.release(rolled_back, "gave back") is Status.QUEUED


def test_a_preview_travels_with_its_event(ledger, job, redis_client, names):
    attempt = ledger.claim(job.id, "w1", "one")
    ledger.emit(attempt, events.Previewed(step=2), preview=b"jpeg")
    assert redis_client.get(names.preview(job.id)) == b"jpeg"
    assert snapshot_of(redis_client, names, job).preview_step == 2


def test_events_are_published_with_their_number(ledger, job, redis_client, names):
    with redis_client.pubsub(ignore_subscribe_messages=True) as subscriber:
        subscriber.subscribe(names.events(job.id))
        attempt = ledger.claim(job.id, "w1", "one")
        ledger.emit(attempt, events.TextEncoded())
        messages = []
        while (message := subscriber.get_message(timeout=0.2)) or len(messages) < 2:
            if message:
                messages.append(message["data"].split(b" ", 1))
    assert [int(number) for number, _ in messages] == [1, 2]
    assert isinstance(events.parse_event(messages[1][1]), events.TextEncoded)


def test_commit_ends_the_job_once_and_sets_every_ttl(ledger, client_ledger, job, redis_client, names):
    attempt = ledger.claim(job.id, "w1", "one")
    ledger.emit(attempt, events.Previewed(step=1), preview=b"jpeg")
    before = attempt.snapshot
    done = events.Done(result=RESULT)
    assert ledger.commit(attempt, done) is Verdict.CONTINUE
    stored = redis_client.hgetall(names.state(job.id))
    attempt.snapshot = before
    assert ledger.commit(attempt, done) is Verdict.CONTINUE
    assert redis_client.hgetall(names.state(job.id)) == stored
    assert stored[b"status"] == b"done"
    assert Result.model_validate_json(redis_client.hget(names.result(job.id), "files")) == RESULT
    assert not redis_client.exists(names.lease(job.id))
    for key in (names.job, names.state, names.events, names.result):
        assert RESULT_TTL - 5 <= redis_client.ttl(key(job.id)) <= RESULT_TTL
    assert 0 < redis_client.ttl(names.preview(job.id)) <= PREVIEW_TTL
    assert ledger.claim(job.id, "w2", "two") is Refusal.ENDED
    assert client_ledger.cancel(job.id) is Status.DONE
    assert not redis_client.exists(names.cancel(job.id))
    with pytest.raises(StaleAttempt):
        ledger.emit(attempt, events.TextEncoded())


def test_commit_needs_the_current_attempt_not_a_live_lease(ledger, job, redis_client, names):
    attempt = ledger.claim(job.id, "w1", "one")
    redis_client.delete(names.lease(job.id))
    assert ledger.commit(attempt, events.Done(result=RESULT)) is Verdict.CONTINUE


def test_a_result_after_an_accepted_cancel_is_refused(ledger, client_ledger, job, redis_client, names):
    attempt = ledger.claim(job.id, "w1", "one")
    assert client_ledger.cancel(job.id) is Status.RUNNING
    assert ledger.renew(attempt) is Verdict.CANCEL
    assert ledger.emit(attempt, events.TextEncoded()) is Verdict.CANCEL
    assert ledger.commit(attempt, events.Done(result=RESULT)) is Verdict.CANCEL
    assert not redis_client.exists(names.result(job.id))
    assert ledger.commit(attempt, events.Cancelled()) is Verdict.CONTINUE
    assert snapshot_of(redis_client, names, job).status is Status.CANCELLED


def test_release_puts_the_job_back_for_the_next_attempt(ledger, job, redis_client, names):
    attempt = ledger.claim(job.id, "w1", "one")
    before = attempt.snapshot
    assert ledger.release(attempt, "shutting down") is Status.QUEUED
    assert attempt.snapshot == before  # what was sent once can be sent again, and changes nothing
    assert ledger.release(attempt, "shutting down") is Status.QUEUED
    assert snapshot_of(redis_client, names, job).status is Status.QUEUED
    assert redis_client.xlen(names.events(job.id)) == 2
    assert not redis_client.exists(names.lease(job.id))
    assert ledger.claim(job.id, "w2", "two").number == 2


def test_cancel_of_an_unknown_job_writes_nothing(client_ledger, redis_client):
    assert client_ledger.cancel("nothing") is None
    assert redis_client.keys("*") == []


def test_every_key_is_in_the_namespace(ledger, client_ledger, job, redis_client):
    attempt = ledger.claim(job.id, "w1", "one")
    ledger.emit(attempt, events.Previewed(step=1), preview=b"x")
    client_ledger.cancel(job.id)
    ledger.commit(attempt, events.Cancelled())
    assert all(key.startswith(b"test:") for key in redis_client.keys("*"))


def lapse(redis_client, names, job):
    redis_client.delete(names.lease(job.id))


def test_requeue_puts_back_what_nobody_owns_and_only_that(ledger, job, redis_client, names):
    assert ledger.requeue(job.id, Snapshot()) is None  # it waits already
    attempt = ledger.claim(job.id, "w1", "one")
    assert ledger.requeue(job.id, attempt.snapshot) is None  # it has an owner
    lapse(redis_client, names, job)
    read = snapshot_of(redis_client, names, job)
    assert ledger.requeue(job.id, read) is Status.QUEUED
    assert ledger.requeue(job.id, read) is None  # another reaper was first
    assert snapshot_of(redis_client, names, job).message == "worker one stopped answering"
    with pytest.raises(StaleAttempt):
        ledger.renew(attempt)
    assert ledger.claim(job.id, "w2", "two").number == 2


def test_requeue_ends_a_cancelled_job_without_an_owner(ledger, client_ledger, make_job, redis_client, names):
    waiting, orphaned, unknown = make_job(), make_job(), make_job()
    for job in (waiting, orphaned):
        client_ledger.submit(job)
    ledger.claim(orphaned.id, "w1", "one")
    lapse(redis_client, names, orphaned)
    for job in (waiting, orphaned):
        client_ledger.cancel(job.id)
        stored = redis_client.hget(names.state(job.id), "snapshot")
        read = Snapshot.model_validate_json(stored) if stored else Snapshot()
        assert ledger.requeue(job.id, read) is Status.CANCELLED
        assert redis_client.ttl(names.job(job.id)) > 0
    assert ledger.requeue(unknown.id, Snapshot()) is None


def test_three_lapses_without_a_step_between_them_fail_a_job(ledger, job, redis_client, names):
    outcomes = []
    for _ in range(3):
        attempt = ledger.claim(job.id, "w1", "one")
        lapse(redis_client, names, job)
        outcomes.append(ledger.requeue(job.id, attempt.snapshot))
    assert outcomes == [Status.QUEUED, Status.QUEUED, Status.FAILED]
    assert snapshot_of(redis_client, names, job).error == "worker one stopped answering"
    assert ledger.claim(job.id, "w1", "one") is Refusal.ENDED


def test_two_deaths_fail_a_job_but_not_if_it_gained_a_step(ledger, job, redis_client, names):
    reached = 0
    for gained in (True, True, True, False):
        attempt = ledger.claim(job.id, "w1", "one")
        reached += gained
        ledger.emit(attempt, events.Stepped(step=max(reached, 1), steps=9, seconds=1))
        outcome = ledger.release(attempt, "the render process died", Strike.DEATH)
        assert outcome is (Status.QUEUED if gained else Status.FAILED)
    assert snapshot_of(redis_client, names, job).error == "the render process died"


def test_a_release_without_a_strike_never_counts(ledger, job):
    for _ in range(10):
        attempt = ledger.claim(job.id, "w1", "one")
        assert ledger.release(attempt, "draining") is Status.QUEUED


def test_a_release_after_a_cancel_ends_the_job(ledger, client_ledger, job):
    attempt = ledger.claim(job.id, "w1", "one")
    client_ledger.cancel(job.id)
    assert ledger.release(attempt, "shutting down") is Status.CANCELLED


def test_the_newest_resume_point_is_kept_until_the_end(ledger, job, redis_client, names):
    attempt = ledger.claim(job.id, "w1", "one")
    assert ledger.saved(job.id) is None
    ledger.save(attempt, b"after 1")
    ledger.save(attempt, b"after 2")
    ledger.release(attempt, "draining")
    assert ledger.saved(job.id) == b"after 2"
    with pytest.raises(StaleAttempt):
        ledger.save(attempt, b"late")
    again = ledger.claim(job.id, "w2", "two")
    ledger.commit(again, events.Done(result=RESULT))
    assert ledger.saved(job.id) is None


@pytest.mark.parametrize("arrived", [True, False], ids=["whose answer was lost", "that never arrived"])
@pytest.mark.parametrize("then", ["emit", "commit", "release"])
def test_an_owner_goes_on_after_a_write(ledger, job, redis_client, names, monkeypatch, arrived, then):
    attempt = ledger.claim(job.id, "w1", "one")
    run = Ledger._run

    def run_on_a_bad_line(*args):
        if arrived:
            run(*args)
        raise redis.ConnectionError("the line is bad")

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "_run", run_on_a_bad_line)
        with pytest.raises(redis.ConnectionError):
            ledger.emit(attempt, events.TextEncoded())
    seq = 2 if arrived else 1
    match then:
        case "emit":
            assert ledger.emit(attempt, events.Stepped(step=1, steps=2, seconds=1.0)) is Verdict.CONTINUE
        case "commit":
            assert ledger.commit(attempt, events.Done(result=RESULT)) is Verdict.CONTINUE
        case "release":
            assert ledger.release(attempt, "shutting down") is Status.QUEUED
    snapshot = snapshot_of(redis_client, names, job)
    assert (snapshot.seq, snapshot.status) == (
        seq + 1,
        {"emit": Status.RUNNING, "commit": Status.DONE, "release": Status.QUEUED}[then],
    )


def test_who_gave_a_job_back_cannot_end_it(ledger, job, redis_client, names):
    attempt = ledger.claim(job.id, "w1", "one")
    ledger.release(attempt, "draining")
    ledger.refresh(attempt)
    for ending in (events.Cancelled(), events.Failed(error="no"), events.Done(result=RESULT)):
        with pytest.raises(StaleAttempt):
            ledger.commit(attempt, ending)
    assert snapshot_of(redis_client, names, job).status is Status.QUEUED


def test_a_preview_outlives_no_job_by_more_than_an_hour(ledger, client_ledger, job, redis_client, names):
    attempt = ledger.claim(job.id, "w1", "one")
    ledger.emit(attempt, events.Previewed(step=1), preview=b"jpeg")
    client_ledger.cancel(job.id)
    assert ledger.release(attempt, "shutting down") is Status.CANCELLED
    assert 0 < redis_client.ttl(names.preview(job.id)) <= PREVIEW_TTL


def test_a_claim_that_is_sent_again_goes_on_from_what_the_first_has_written(ledger, job, client_ledger, monkeypatch):
    """Its answer was lost, and the second call makes a claim of its own, a moment later."""
    turn = ledger.next("w", "one", job.variant, 512)
    first = ledger.claim(job.id, "w", "one", job.variant, "f" * 32, turn=turn)
    time.sleep(0.01)
    second = ledger.claim(job.id, "w", "one", job.variant, "f" * 32, turn=turn)
    assert second.snapshot == first.snapshot == ledger.read(job.id)


def test_strikes_are_forgotten_at_any_new_stage_and_any_new_step_of_it(ledger, job):
    """Each attempt dies; two in a row that come no further than another did before fail the job."""

    def after(*log):
        attempt = ledger.claim(job.id, "w1", "one")
        ledger.emit_all(attempt, [(event, b"") for event in log])
        return ledger.release(attempt, "the render process died", Strike.DEATH)

    step = events.Stepped(step=9, steps=9, seconds=1)
    decode, *frames = (
        events.StageBegan(stage="decode"),
        *(events.Progress(stage="decode", done=done, of=25, seconds=1) for done in (9, 16)),
    )
    text, begun = events.StageBegan(stage="text"), events.StageBegan(stage="denoise")
    gains = [(text,), (text, begun), (begun, step), (step, decode)]
    for log in gains:
        assert after(*log) is Status.QUEUED
    assert after(text, begun, step, decode, *frames) is Status.FAILED, "other chunks of frames are no progress"


def test_strikes_that_workers_before_stages_have_counted_stand_until_a_stage_comes_further(
    ledger, job, redis_client, names
):
    attempt = ledger.claim(job.id, "w1", "one")
    ledger.emit(attempt, events.Stepped(step=3, steps=9, seconds=1))
    assert redis_client.hget(names.state(job.id), "furthest") == b"3", "where they read and write it"
    redis_client.hset(names.state(job.id), "deaths", 1)
    ledger.emit_all(
        attempt, [(events.StageBegan(stage="denoise"), b""), (events.Stepped(step=3, steps=9, seconds=1), b"")]
    )
    assert redis_client.hget(names.state(job.id), "deaths") == b"1"
    assert ledger.release(attempt, "the render process died", Strike.DEATH) is Status.FAILED


def test_a_claim_tells_the_stages_of_the_jobs_variant(ledger, job, redis_client, names):
    attempt = ledger.claim(job.id, "w1", "one")
    request = job.request
    expected = [("text", 2), ("denoise", request.num_steps), ("decode", request.num_frames)]
    assert [(stage.name, stage.of) for stage in attempt.snapshot.stages] == expected
    assert snapshot_of(redis_client, names, job) == attempt.snapshot
