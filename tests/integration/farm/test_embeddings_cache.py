"""Test that a prompt is encoded once for the whole farm, and that a fault of the cache costs only an encoding."""

import dataclasses
import re

import numpy as np
import pytest

from ltx_client.protocol.names import Names
from ltx_client.protocol.state import Status
from ltx_models.request import GenerationRequest
from tests.clips import read_clip
from tests.integration.conftest import PROMPT, wait_until

REQUEST = GenerationRequest(prompt=PROMPT, seed=5)
NOTES = """
import sys
if "ltx_worker.engine" in sys.orig_argv:
    from ltx_models.text_encoders import t5
    from ltx_models.text_encoders.t5 import T5Encoder

    def note(text):
        with open("{notes}", "a") as file:
            file.write(text)

    def load(*args, load=t5.load_text_encoder):
        note("loaded ")
        return load(*args)

    def call(self, *args, call=T5Encoder.__call__):
        note("encoded ")
        return call(self, *args)

    t5.load_text_encoder = load
    T5Encoder.__call__ = call
"""
AHEAD = """
    import threading

    from ltx_models.events import Stepped
    from ltx_models.pipeline.text_to_video import LTXPipeline
    from ltx_worker.engine.encode_ahead import TextsAhead

    asked = threading.Event()

    def ask(self, texts, ask=TextsAhead.ask):
        ask(self, texts)
        asked.set()

    def take(self, take=TextsAhead.take):
        taken = take(self)
        note(f"took:{len(taken)} ")
        return taken

    def stream(self, request, stream=LTXPipeline.stream, **options):
        for event in stream(self, request, **options):
            yield event
            if isinstance(event, Stepped) and event.step == event.steps:
                asked.wait(30)

    TextsAhead.ask = ask
    TextsAhead.take = take
    LTXPipeline.stream = stream
"""
"""Holds the first render before its decode until it is told what to encode for the next; to follow NOTES."""


@pytest.fixture
def notes(farm_env):
    """Return what the workers' text encoders have done since the last call."""
    path = farm_env.folder / "notes"
    (farm_env.folder / "sitecustomize.py").write_text(NOTES.format(notes=path))
    farm_env.env["PYTHONPATH"] = str(farm_env.folder)

    def since():
        text = path.read_text() if path.exists() else ""
        path.unlink(missing_ok=True)
        return text.split()

    return since


@pytest.fixture
def render(farm_env, tmp_path):
    def render_one(farm, request):
        job = farm.submit(request)
        *_, last = farm.watch(job.id)
        assert last.snapshot.status is Status.DONE
        farm.download(job.id, tmp_path / "clip.mp4")
        return read_clip(tmp_path / "clip.mp4").frames

    return render_one


def test_a_prompt_is_encoded_once_for_all_workers_and_the_frames_are_the_same(farm_env, render, notes):
    first = farm_env.start_worker("one")
    with farm_env.connect() as farm:
        uncached = render(farm, REQUEST)
        assert notes() == ["loaded", "encoded", "encoded"]
        wait_until(lambda: farm._client.zcard(Names().embeddings()) == 2, what="both texts being stored")
        assert np.array_equal(render(farm, REQUEST), uncached)
        assert notes() == []
        first.terminate()
        first.wait(120)
        farm_env.start_worker("two")  # another machine of the farm, whose engine has encoded nothing
        assert np.array_equal(render(farm, REQUEST), uncached)
        assert not np.array_equal(render(farm, dataclasses.replace(REQUEST, seed=6)), uncached)
        assert notes() == []
        render(farm, dataclasses.replace(REQUEST, prompt="a blue square falls on a pink background"))
        assert notes() == ["loaded", "encoded"]  # the negative prompt is known


def test_a_prompt_is_encoded_while_the_last_job_is_decoded(farm_env, render, notes):
    with (farm_env.folder / "sitecustomize.py").open("a") as file:
        file.write(AHEAD)
    other = dataclasses.replace(REQUEST, prompt="a blue square falls on a pink background")
    with farm_env.connect() as farm:
        jobs = [farm.submit(request) for request in (REQUEST, other)]
        farm_env.start_worker("one")
        for job in jobs:
            *_, last = farm.watch(job.id)
            assert last.snapshot.status is Status.DONE
        assert notes() == ["took:0", "loaded", "encoded", "encoded", "encoded", "took:1"]
        wait_until(lambda: farm._client.zcard(Names().embeddings()) == 3, what="all texts being stored")
        farm.download(jobs[1].id, farm_env.folder / "ahead.mp4")
        assert np.array_equal(render(farm, other), read_clip(farm_env.folder / "ahead.mp4").frames)
        assert notes() == ["took:0"]


def test_a_negative_prompt_that_guidance_does_not_use_is_not_encoded(farm_env, render, notes):
    farm_env.start_worker("one")
    with farm_env.connect() as farm:
        render(farm, dataclasses.replace(REQUEST, guidance_scale=1.0))
    assert notes() == ["loaded", "encoded"]


def test_damaged_values_are_replaced_and_the_render_is_what_it_would_be(farm_env, render, notes):
    farm_env.start_worker("one")
    with farm_env.connect() as farm:
        uncached = render(farm, REQUEST)
        keys = wait_until(lambda: len(keys := farm._client.keys(Names().embedding("*"))) == 2 and keys)
        whole = {key: farm._client.get(key) for key in keys}
        for key in keys:
            farm._client.set(key, whole[key][:-40])
        notes()
        assert np.array_equal(render(farm, REQUEST), uncached)
        assert notes() == ["encoded", "encoded"]
        wait_until(lambda: all(farm._client.get(key) == whole[key] for key in keys), what="whole values")
        for key in keys:  # not a string: Redis itself refuses
            farm._client.delete(key)
            farm._client.rpush(key, "x")
        assert np.array_equal(render(farm, REQUEST), uncached)
        assert notes() == ["encoded", "encoded"]
    log = (farm_env.folder / "one.log").read_text()
    assert len(re.findall("embedding from the farm's cache is not used: it is damaged", log)) == 2


def test_a_worker_may_do_without(farm_env, render, notes):
    farm_env.start_worker("one", embeds_bytes=0)
    with farm_env.connect() as farm:
        for _ in range(2):
            render(farm, REQUEST)
        assert farm._client.keys(Names().embedding("*")) == []
    assert notes() == ["loaded", *["encoded"] * 4]
