"""Test what an engine tells of the stages of a render."""

import time

from ltx_models import events
from ltx_models.families.stages import DENOISE, LTXV_STAGES, Stage
from ltx_models.request import GenerationRequest
from ltx_worker.engine import messages
from ltx_worker.engine.progress import StageReporter

POLISH = Stage(name="polish", label="polishing", counts="step", of=lambda _: 2)
STAGES = (*LTXV_STAGES[:2], POLISH, LTXV_STAGES[2])
REQUEST = GenerationRequest(prompt="x", num_steps=4, num_frames=25)


def reporter():
    sent = []
    return StageReporter(STAGES, REQUEST, sent.append), sent


def test_the_gpu_is_handed_over_once_when_the_first_stage_begins_that_may():
    stages, sent = reporter()
    for name in ("text", "denoise", "polish"):
        stages.begin(events.StageBegan(name))
    assert not any(isinstance(message, messages.HandOver) for message in sent)
    stages.begin(events.StageBegan("decode"))
    assert [type(message) for message in sent[-2:]] == [messages.StageBegan, messages.HandOver]


def test_a_render_that_resumes_after_that_stage_hands_the_gpu_over_once_too():
    sent = []
    rows = (*LTXV_STAGES, Stage(name="sharpen", label="sharpening", counts="frame"), POLISH)
    stages = StageReporter(rows, REQUEST, sent.append)
    for name in ("sharpen", "polish"):
        stages.begin(events.StageBegan(name))
    assert [message.type for message in sent] == ["stage_began", "hand_over", "stage_began"]


def test_steps_are_numbered_over_all_stages_that_count_steps():
    stages, sent = reporter()
    stages.progress(events.Progress("denoise", 4, 4, 1.0), b"point")
    stages.progress(events.Progress("polish", 1, 2, 1.0), None)
    told = [(message.stage, message.done, message.of, message.step, message.steps, message.resume) for message in sent]
    assert told == [("denoise", 4, 4, 4, 6, b"point"), ("polish", 1, 2, 5, 6, None)]
    assert all(type(messages.event_of(message)).__name__ == "Stepped" for message in sent)


def test_of_frames_the_first_and_the_last_are_told_and_what_lies_between_counts(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stages, sent = reporter()
    stages.begin(events.StageBegan("decode"))
    for done, later in ((8, 0.1), (12, 0.1), (16, 2.0), (20, 0.1), (25, 0.1)):
        now[0] += later
        stages.progress(events.Progress("decode", done, 25, 0.5), None)
    told = [(message.done, message.seconds) for message in sent if isinstance(message, messages.Progress)]
    assert told == [(8, 0.5), (16, 1.0), (25, 1.0)]


def test_each_stage_takes_its_time_and_what_precedes_the_first_is_a_part_of_it(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    stages, _ = reporter()
    for moment, name in ((1.0, "text"), (3.0, "denoise"), (6.0, "decode")):
        now[0] = moment
        stages.begin(events.StageBegan(name))
    with stages.stopped():
        now[0] = 10.0
    now[0] = 11.0
    stages.end()
    assert stages.seconds == {"text": 3.0, DENOISE.name: 3.0, "decode": 1.0}
