"""Test what follows from the stages of a job: its state, bar and time left, for workers and clients of both ages."""

import io
import json
import math
import re
from pathlib import Path

import pytest

from ltx_client.farm.jobs.prepare import prepare
from ltx_client.farm.jobs.views import Follower, JobView, Update
from ltx_client.protocol import events
from ltx_client.protocol.events import StagePlan, parse_event
from ltx_client.protocol.state import Snapshot, Stage, Status, apply, parse_snapshot
from ltx_client.shared.console.rich_console import Console
from ltx_client.terminal.watching.live_table import LiveDisplay
from ltx_client.terminal.watching.progress import headline, progress_text
from ltx_models.families.stages import LTXV_STAGES, count_steps
from ltx_models.families.stages import Stage as Row
from ltx_models.families.variants import VARIANTS
from ltx_models.request import GenerationRequest

BEFORE = [
    json.loads(line)
    for line in (Path(__file__).parents[3] / "data/events_before_stages.jsonl").read_text().splitlines()
]
"""A render of the version before stages, event by event, with the state after each: what its workers wrote."""
UNKNOWN_BEFORE = {"stage_began", "progress"}
"""What clients before stages leave out."""
PLAN = (
    StagePlan(name="text", label="encoding the prompt", counts="text", of=2),
    StagePlan(name="denoise", label="denoising", counts="step", of=4),
    StagePlan(name="polish", label="polishing", counts="step", of=2),
    StagePlan(name="decode", label="decoding", counts="frame", of=25),
)
CLAIMED = events.Claimed(attempt=1, worker="w", worker_name="mac", stages=PLAN)


def replay(*log, start=None):
    state = start or Snapshot()
    for event in log:
        state = apply(state, event)
    return state


def begin(stage):
    return events.StageBegan(stage=stage)


def step(stage, done, of, before=0, seconds=1.0):
    return events.Stepped(stage=stage, done=done, of=of, step=before + done, steps=6, seconds=seconds)


def frames(done, seconds=1.0):
    return events.Progress(stage="decode", done=done, of=25, seconds=seconds)


RENDER = (
    CLAIMED,
    begin("text"),
    events.TextEncoded(),
    events.Progress(stage="text", done=2, of=2, seconds=0.5),
    begin("denoise"),
    *(step("denoise", n, 4) for n in (1, 2, 3, 4)),
    begin("polish"),
    *(step("polish", n, 2, before=4, seconds=3.0) for n in (1, 2)),
    begin("decode"),
    frames(9),
    frames(25),
    events.Decoded(frames=25),
)


def view_of(snapshot):
    return JobView(prepare(GenerationRequest(prompt="x")).job, 1.76e9, snapshot, cancel_asked=False, leased=True)


def test_a_log_before_stages_makes_the_state_that_it_made():
    state = Snapshot()
    for line in BEFORE:
        event = parse_event(json.dumps(line["event"]))
        if event.type in ("failed", "cancelled"):
            state = Snapshot(status=Status.RUNNING, attempt=1, seq=7)
        state = apply(state, event)
        known = state.model_dump(mode="json")
        if known["result"]:  # files of later versions are not in what was recorded
            known["result"] = {name: known["result"][name] for name in line["state"]["result"]}
        assert {name: known[name] for name in line["state"]} == line["state"]


def test_a_state_before_stages_is_shown_well():
    shown = []
    for line in BEFORE:
        state = parse_snapshot(json.dumps(line["state"]))
        shown.append((headline(Update(None, state, view_of(state))), progress_text(state)))
    assert ("denoising", "step 1/4, 6.0 s left") in shown
    assert ("decoding", "") in shown
    at_two = parse_snapshot(json.dumps(BEFORE[6]["state"]))
    assert (at_two.counted.done, at_two.counted.of, at_two.position) == (2, 4, (1, 2))
    again = parse_snapshot(json.dumps(BEFORE[7]["state"]))  # given back by a worker before stages
    claimed = apply(again, events.Claimed(attempt=2, worker="w", worker_name="mac", stages=PLAN))
    assert apply(claimed, events.Resumed(step=1)).lost_steps == 1


def kinds(value):
    return {name: type(each) for name, each in value.items() if each is not None}


def test_what_clients_before_stages_show_is_written_as_they_know_it():
    """Every event has the fields, of the same types, that they need of its kind; others are of kinds that they skip."""
    known = {}
    for line in BEFORE:
        known.setdefault(line["event"]["type"], {}).update(kinds(line["event"]))
    state_before = {}
    for line in BEFORE:
        state_before.update(kinds(line["state"]))
    state = Snapshot()
    for event in (*RENDER, events.Uploading(size=1), events.Failed(error="no")):
        written = json.loads(event.model_dump_json())
        if event.type not in UNKNOWN_BEFORE:
            assert known[event.type].items() <= kinds(written).items()
        state = apply(state, event)
        stored = json.loads(state.model_dump_json())
        assert stored.keys() >= BEFORE[0]["state"].keys()
        assert all(type(stored[name]) is kind for name, kind in state_before.items() if stored[name] is not None)
        assert stored["stage"] in {word.value for word in Stage}
    steps = [(event.step, event.steps) for event in RENDER if isinstance(event, events.Stepped)]
    assert steps == [(n, 6) for n in range(1, 7)], "over all stages that count steps, as a bar before stages shows it"


def test_one_stream_has_the_steps_and_the_previews_that_a_program_is_to_call_back():
    log = [*RENDER[:6], events.Previewed(step=1), *RENDER[6:]]
    calls = []
    for event in (parse_event(event.model_dump_json()) for event in log):
        if isinstance(event, events.Stepped):
            calls.append(("progress", event.step, event.steps))
        elif isinstance(event, events.Previewed):
            calls.append(("checkpoint", event.step))
    assert calls == [("progress", 1, 6), ("checkpoint", 1), *(("progress", n, 6) for n in range(2, 7))]


def test_a_render_goes_from_stage_to_stage():
    states = [replay(*RENDER[: count + 1]) for count in range(len(RENDER))]
    assert [(state.doing, progress_text(state)) for state in states] == [
        ("loading the model", ""),
        ("encoding the prompt", ""),
        ("denoising", ""),
        ("denoising", ""),
        ("denoising", ""),
        ("denoising", "step 1/4"),
        ("denoising", "step 2/4"),
        ("denoising", "step 3/4"),
        ("polishing", ""),
        ("polishing", ""),
        ("polishing", "step 1/2, 3.0 s left"),
        ("decoding", ""),
        ("decoding", ""),
        ("decoding", "frame 9/25, 1.8 s left"),
        ("decoding", "frame 25/25"),
        ("writing the MP4", ""),
    ]
    assert [(state.step, state.steps) for state in states[-8:-4]] == [(4, 6), (4, 6), (5, 6), (6, 6)]
    positions = [state.position for state in states]
    assert positions == sorted(positions)
    for state in states:
        assert parse_snapshot(state.model_dump_json()) == state


def test_a_render_is_further_by_a_step_or_a_stage_but_not_by_frames():
    """In which chunks frames are decoded, and when they are told, depends on the machine."""
    denoised = replay(CLAIMED, begin("denoise"), step("denoise", 2, 4))
    assert denoised.position == (1, 2)
    polished = replay(begin("polish"), step("polish", 1, 2, before=4), start=denoised)
    assert polished.position == (2, 1)
    begun = replay(begin("decode"), start=polished)
    assert begun.position == replay(frames(9), frames(16), start=begun).position == (3, 0)


def test_the_time_left_is_told_once_every_stage_of_steps_has_a_pace():
    text = events.Progress(stage="text", done=1, of=2, seconds=9.0)
    one_text = replay(CLAIMED, begin("text"), text)
    assert (one_text.left, progress_text(one_text)) == (None, "text 1/2"), "it says nothing of the steps"
    first = replay(*RENDER)
    again = replay(events.Released(reason="x"), CLAIMED, events.Resumed(step=2), begin("denoise"), start=first)
    assert again.left is None, "another machine has another pace"
    denoising = replay(step("denoise", 3, 4, seconds=5.0), start=again)
    assert denoising.left is None, "and two steps are to be polished, at a pace that nobody knows yet"
    assert replay(step("polish", 1, 2, seconds=3.0), start=denoising).left == 3.0
    alone = CLAIMED.model_copy(update={"stages": (PLAN[0], PLAN[1], PLAN[3])})
    assert replay(alone, begin("denoise"), step("denoise", 1, 4, seconds=5.0)).left == 15.0


@pytest.mark.parametrize(
    ("stage", "done", "lost", "left"),
    [("denoise", 3, 2, [2, 3, 0, 0]), ("polish", 1, 0, [2, 4, 1, 0]), ("denoise", 0, 5, [2, 0, 0, 0])],
)
def test_lost_steps_are_those_of_all_stages_since_the_resume_point(stage, done, lost, left):
    killed = replay(*RENDER[:11])
    assert (killed.stage_name, killed.step) == ("polish", 5)
    again = replay(CLAIMED, events.Resumed(step=done, stage=stage), start=killed)
    assert (again.lost_steps, [each.done for each in again.stages]) == (lost, left)


def test_a_death_in_decoding_loses_no_step():
    killed = replay(*RENDER[:14])
    again = replay(CLAIMED, events.Resumed(step=2, stage="polish"), begin("decode"), start=killed)
    assert (again.lost_steps, again.step, again.stages[-1].done) == (0, 6, 0)


@pytest.mark.parametrize("event", [begin("sing"), events.Progress(stage="sing", done=1, of=None, seconds=1.0)])
def test_a_stage_that_no_worker_has_announced_changes_no_other(event):
    state = replay(*RENDER[:8])
    after = apply(state, event)
    assert after.stages == state.stages
    assert (after.doing, progress_text(after)) == ("denoising", "")


def test_the_table_shows_the_bar_of_the_stage_that_a_job_is_at():
    def bar(state):
        table = LiveDisplay(None, Console(file=io.StringIO(), width=160))
        table._look_at = math.inf
        table.show(Update(None, state, view_of(state)))
        return re.search(r"\d+/\d+", _printed(table.table()))

    assert bar(replay(*RENDER[:7]))[0] == "2/4"
    assert bar(replay(*RENDER[:14]))[0] == "9/25"
    assert bar(replay(CLAIMED)) is None


def _printed(renderable):
    console = Console(file=io.StringIO(), width=160)
    console.print(renderable)
    return console.file.getvalue()


def test_a_follower_that_reads_events_of_both_ages_ends_at_the_stored_state():
    log = [*RENDER[:10], events.Failed(error="no")]
    stored = replay(*log)
    follower = Follower()
    *_, last = follower.advance(list(enumerate((e.model_dump_json().encode() for e in log), 1)), view_of(stored))
    assert last.snapshot == stored


def test_the_stages_of_every_variant_are_named_once_and_say_how_many_there_are():
    for variant in VARIANTS.values():
        names = [stage.name for stage in variant.stages]
        assert len(set(names)) == len(names)
        assert all(re.fullmatch("[a-z][a-z0-9_]*", name) for name in names)
        request = GenerationRequest(prompt="x", num_steps=4, skip_first_steps=1).resolve(variant)
        assert [stage.of(request) for stage in variant.stages][1:] == [3, request.num_frames]


def test_steps_are_counted_over_stages():
    refine = Row(name="refine", label="refining", counts="step", of=lambda _: 5)
    stages = (*LTXV_STAGES[:2], refine, LTXV_STAGES[2])
    request = GenerationRequest(prompt="x", num_steps=4)
    assert (count_steps(stages, request), count_steps(stages, request, "refine")) == (9, 4)
