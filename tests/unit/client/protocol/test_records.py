"""Test state changes, events, records and names, on which both sides must agree."""

import itertools

import pytest
from pydantic import TypeAdapter, ValidationError

from ltx_client.farm.jobs.prepare import prepare
from ltx_client.protocol import events
from ltx_client.protocol.events import Event, Result, UnreadableEvent, parse_event
from ltx_client.protocol.jobs import Job, new_job_id
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import ENDED, TRANSITIONS, Snapshot, Stage, Status, apply, sources_of
from ltx_client.shared.broker.url import Broker
from ltx_client.shared.celery.celery_settings import celery_settings
from ltx_client.shared.settings import FarmSettings, broker_address
from ltx_models.errors import InvalidRequest
from ltx_models.request import GenerationRequest

RESULT = Result(video="a.mp4", sidecar="a.json", size=1, sha256="00")
ONE_OF_EACH = [
    events.Claimed(attempt=1, worker="w", worker_name="mac"),
    events.Loading(fraction=0.5, message="loading the VAE"),
    events.TextEncoded(),
    events.Stepped(step=1, steps=2, seconds=1.0),
    events.Previewed(step=1),
    events.Decoded(frames=25),
    events.Uploading(size=10),
    events.Delayed(reason="the storage is full"),
    events.Done(result=RESULT),
    events.Failed(error="why"),
    events.Cancelled(),
    events.Resumed(step=3),
    events.Released(reason="because"),
    events.StageBegan(stage="decode"),
    events.Progress(stage="decode", done=9, of=25, seconds=0.5),
]


def replay(*log):
    snapshot = Snapshot()
    for event in log:
        snapshot = apply(snapshot, event)
    return snapshot


def test_there_is_one_example_of_every_event():
    assert {type(event) for event in ONE_OF_EACH} == set(Event.__args__)


@pytest.mark.parametrize("event", ONE_OF_EACH, ids=lambda event: event.type)
def test_an_event_survives_the_wire(event):
    assert parse_event(event.model_dump_json()) == event


@pytest.mark.parametrize("event", ONE_OF_EACH, ids=lambda event: event.type)
def test_every_event_counts_and_changes_a_running_job_only_as_the_table_allows(event):
    after = apply(Snapshot(status=Status.RUNNING, seq=4), event)
    assert after.seq == 5
    assert after.status is Status.RUNNING or after.status in TRANSITIONS[Status.RUNNING]


def test_an_event_of_a_newer_protocol_is_no_error():
    assert parse_event('{"type": "sang", "at": 1.0, "song": []}') is None


@pytest.mark.parametrize("data", ["", "[]", '{"type": "stepped"}', '{"at": 1}'])
def test_a_damaged_event_is_an_error(data):
    with pytest.raises(UnreadableEvent):
        parse_event(data)


def test_an_event_with_fields_of_a_newer_protocol_is_read():
    assert parse_event('{"type": "cancelled", "at": 1.0, "by": "somebody"}') == events.Cancelled(at=1.0)


def test_a_render_from_claim_to_done():
    log = (
        ONE_OF_EACH[:3]
        + [events.Stepped(step=n, steps=2, seconds=float(n)) for n in (1, 2)]
        + [ONE_OF_EACH[5], ONE_OF_EACH[6], ONE_OF_EACH[8]]
    )
    stages = [replay(*log[:count]).stage for count in range(len(log) + 1)]
    assert stages == [
        Stage.WAITING,
        Stage.LOADING,
        Stage.LOADING,
        Stage.DENOISING,
        Stage.DENOISING,
        Stage.DECODING,
        Stage.WRITING,
        Stage.UPLOADING,
        Stage.ENDED,
    ]
    done = replay(*log)
    assert (done.status, done.result, done.ended) == (Status.DONE, RESULT, True)


def test_a_released_job_waits_and_the_next_attempt_counts_what_was_lost():
    steps = [events.Stepped(step=n, steps=9, seconds=1.0) for n in range(1, 6)]
    waiting = replay(ONE_OF_EACH[0], *steps, events.Released(reason="shutting down"))
    assert (waiting.status, waiting.attempt, waiting.worker) == (Status.QUEUED, 1, None)
    assert waiting.message == "shutting down"
    claimed = apply(waiting, events.Claimed(attempt=2, worker="v", worker_name="other"))
    assert (claimed.status, claimed.attempt, claimed.message) == (Status.RUNNING, 2, None)
    resumed = apply(claimed, events.Resumed(step=4))
    assert (resumed.step, resumed.lost_steps) == (4, 1)
    again = apply(apply(resumed, events.Stepped(step=5, steps=9, seconds=1.0)), events.Resumed(step=0))
    assert (again.step, again.lost_steps) == (0, 6)


def test_what_ended_stays_ended():
    assert {Status.DONE, Status.FAILED, Status.CANCELLED} == ENDED
    for status in Status:
        assert not sources_of(status) & ENDED


def test_a_job_survives_the_wire_and_an_unknown_field_does_not_pass():
    job = prepare(GenerationRequest(prompt="x", timesteps=(1.0, 0.5))).job
    data = job.model_dump_json()
    assert Job.model_validate_json(data) == job
    with pytest.raises(ValidationError):
        Job.model_validate_json(data[:-1] + ', "command": "rm"}')


@pytest.mark.parametrize(
    ("field", "value"),
    [("id", "../x"), ("id", ""), ("priority", 10), ("priority", "5"), ("predicted_peak", -1), ("submitter", "x" * 201)],
)
def test_a_job_record_is_checked_strictly(field, value):
    with pytest.raises(ValidationError):
        Job.model_validate({**dict(prepare(GenerationRequest(prompt="x")).job), field: value})


def test_a_bad_request_inside_a_job_record_is_refused():
    data = prepare(GenerationRequest(prompt="x")).job.model_dump_json()
    with pytest.raises(ValidationError, match="8n\\+1"):
        TypeAdapter(Job).validate_json(data.replace('"num_frames":25', '"num_frames":30'))


def test_a_prepared_job_is_complete_and_in_its_class():
    job = prepare(GenerationRequest(prompt="x")).job
    open_fields = {name for name, value in vars(job.request).items() if value is None}
    assert open_fields == {"timesteps"}
    assert job.queue == "pocket.1"
    real = prepare(GenerationRequest(prompt="x"), variant="distilled-fp8").job
    assert real.queue == "distilled-fp8.12"
    with pytest.raises(InvalidRequest, match=r"a render with pocket may use 1\.0 GB here: 17 frames of that size"):
        prepare(GenerationRequest(prompt="x", width=768, height=512, num_frames=97))


def test_ids_are_unique_and_key_names_too():
    assert len({new_job_id() for _ in range(1000)}) == 1000
    names = Names("farm:")
    kinds = [names.job, names.cancel, names.state, names.events, names.preview, names.lease, names.result, names.worker]
    made = [kind("x") for kind in kinds] + [names.jobs()]
    assert len(set(made)) == len(made)
    assert all(name.startswith("farm:") for name in made)


def test_both_sides_use_every_priority_and_json_only():
    settings = celery_settings(Broker.parse("redis://localhost"), Names("farm:"))
    assert settings["broker_transport_options"]["priority_steps"] == list(range(10))
    assert settings["broker_transport_options"]["global_keyprefix"] == "farm:"
    assert settings["accept_content"] == ["json"]


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://me:secret@farm:6380/1", "farm:6380"),
        ("rediss://:secret@farm", "farm:6379"),
        ("redis://:secret@[::1]:7000", "::1:7000"),
    ],
)
def test_an_address_never_shows_the_password(monkeypatch, url, address):
    monkeypatch.setenv("LTX_BROKER_URL", url)
    settings = FarmSettings()
    assert broker_address(settings.broker_url) == address
    assert "secret" not in repr(settings)


@pytest.mark.parametrize("url", ["", None])
def test_an_empty_broker_url_means_this_machine(monkeypatch, url):
    monkeypatch.delenv("LTX_BROKER_URL", raising=False)
    if url is not None:
        monkeypatch.setenv("LTX_BROKER_URL", url)
    assert FarmSettings().broker_url is None


def test_the_pace_follows_the_newest_steps():
    slow_then_fast = [4.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    log = [events.Stepped(step=n, steps=8, seconds=s) for n, s in enumerate(slow_then_fast, 1)]
    paces = [replay(*log[:count]).step_seconds for count in range(1, 9)]
    assert paces[0] == 4.0
    assert all(earlier > later for earlier, later in itertools.pairwise(paces))
    assert paces[-1] == pytest.approx(1.0, abs=0.3)
