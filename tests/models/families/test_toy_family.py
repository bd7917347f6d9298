"""Test that a family is a row: one in a folder on PYTHONPATH is listed, predicted, refused, measured and rendered."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from ltx_client.cli import main
from ltx_client.protocol.events import Claimed, StagePlan
from ltx_client.protocol.state import Snapshot, apply
from ltx_models.errors import InvalidRequest, OutOfMemory, ResumeMismatch
from ltx_models.events import Finished, Progress
from ltx_models.families import variants
from ltx_models.families.variants import VARIANTS, Variant
from ltx_models.files.model_files import find_files, missing_parts
from ltx_models.memory import (
    GB,
    check_fits,
    component_weights,
    latent_size,
    limits_of,
    phase_peaks,
    phase_working,
    predict_peak,
)
from ltx_models.pipeline.base import Pipeline, open_pipeline
from ltx_models.request import ConditioningItem, GenerationRequest, refusals_of
from ltx_models.self_test.compare import compare_parts
from ltx_worker.engine import messages
from ltx_worker.engine.process import ENGINE, EngineProcess

FOLDER = Path(__file__).parents[2] / "toy_family"
PROMPT = "two linear layers"


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Variant:
    """Add the family's variant to this process's table for one test."""
    monkeypatch.syspath_prepend(str(FOLDER))
    row: Variant = importlib.import_module("toy_family").VARIANTS[0]
    monkeypatch.setattr(VARIANTS, "data", {**VARIANTS.data, row.name: row})
    monkeypatch.setattr(VARIANTS, "_complete", True)
    return row


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Have new processes find the family's folder."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FOLDER), str(FOLDER.parents[1])]))
    monkeypatch.setenv("LTX_HOME", str(tmp_path / "home"))


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


def ltx(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ltx_client", *arguments], capture_output=True, text=True)


def make(variant: Variant, **values: Any) -> GenerationRequest:
    return GenerationRequest(prompt=PROMPT, **{"seed": 1, **values}).resolve(variant)


@pytest.mark.usefixtures("installed")
def test_it_is_listed_and_its_commands_know_it() -> None:
    (row,) = (row for row in json.loads(ltx("models", "list", "--json").stdout) if row["name"] == "toy")
    assert (row["description"], row["missing"], row["ram_gb"]) == ("two linear layers", [], 1)
    dry = ltx("render", PROMPT, "-v", "toy", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "20x12, 6 frames, 5 steps" in dry.stdout


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    ("variant", "arguments", "words"),
    [
        ("toy", ["--width", "21"], "width 21 is not a multiple of 4; 20 or 24 would be"),
        ("toy", ["--frames", "301"], "frames 301 is out of range; 1 to 300 in steps of 1 are possible"),
        ("toy", ["--width", "1024", "--height", "1024", "--frames", "300"], "frames of that size or"),
        ("pocket", ["--width", "20"], "width 20 is out of range; 32 to 2048 in steps of 32 are possible"),
        ("pocket", ["--frames", "24"], "frames 24 is not 8n+1; 17 or 25 would be"),
    ],
)
def test_a_command_refuses_in_the_words_of_the_variants_family(variant: str, arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(main, ["render", PROMPT, "-v", variant, *arguments, "--dry-run"])
    assert done.exit_code == 2
    assert words in done.stderr


@pytest.mark.usefixtures("installed")
def test_a_client_predicts_its_memory_without_mlx() -> None:
    code = """
import sys
from ltx_models.families.variants import find_variant
from ltx_models.memory import predict_peak
from ltx_models.request import GenerationRequest
find_variant("pocket")
assert "importlib.metadata" not in sys.modules, "a variant of the table needs no look at what is installed"
row = find_variant("toy")
print(predict_peak(row, GenerationRequest(prompt="a").resolve(row)), "mlx" in sys.modules, "numpy" in sys.modules)
"""
    peak, *imported = python(code).stdout.split()
    assert 10**6 < int(peak) < GB
    assert imported == ["False", "False"]


@pytest.mark.usefixtures("installed")
def test_a_family_that_is_broken_costs_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = tmp_path / "bad-1.dist-info"
    bad.mkdir()
    (bad / "METADATA").write_text("Metadata-Version: 2.1\nName: bad\nVersion: 1\n")
    (bad / "entry_points.txt").write_text("[ltx_models.families]\nbad = no_such_module:VARIANTS\nodd = json:__all__\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]]))
    done = ltx("models", "list", "--json")
    assert done.returncode == 0
    assert {"pocket", "toy"} <= {row["name"] for row in json.loads(done.stdout)}
    assert "the variants of bad (no_such_module:VARIANTS) are left out: No module named" in done.stderr
    assert "the variants of odd (json:__all__) are left out" in done.stderr


def test_what_only_it_can_make_is_a_request(toy: Variant) -> None:
    request = GenerationRequest(prompt=PROMPT, width=20, height=12, num_frames=6)
    assert request.resolve(toy).num_frames == 6
    with pytest.raises(InvalidRequest, match="width 20 is out of range"):
        request.resolve(VARIANTS["pocket"])
    with pytest.raises(InvalidRequest, match="stg_mode 'residual' is unknown to the toy family; it has no such"):
        GenerationRequest(prompt=PROMPT, stg_scale=1.0, stg_mode="residual").resolve(toy)
    clip = ConditioningItem(kind="video", source="x.mp4", frame=3)  # which LTX-Video's stride of 8 has not
    with pytest.raises(InvalidRequest, match="does not begin at a multiple of 8; 0 or 8 would"):
        GenerationRequest(prompt=PROMPT, conditioning=(clip,)).resolve(VARIANTS["pocket"])


def test_a_value_that_no_family_takes_is_refused_at_once(toy: Variant) -> None:
    with pytest.raises(InvalidRequest, match="width 21 is out of range; 32 to 2048"):
        GenerationRequest(prompt=PROMPT, width=21)
    with refusals_of(toy), pytest.raises(InvalidRequest, match="width 21 is not a multiple of 4"):
        GenerationRequest(prompt=PROMPT, width=21)


def test_the_arithmetic_of_its_memory(toy: Variant) -> None:
    request = make(toy, width=256, height=256, num_frames=100)
    assert list(component_weights(toy)) == ["painter", "mixer"]
    assert latent_size(request, toy.family.limits).tokens == 100 * 64 * 64
    assert limits_of("toy") is toy.family.limits
    assert limits_of("no such variant") is VARIANTS["pocket"].family.limits
    fast, slow = (phase_working(toy, request, {"painter": chunk})["painter"] for chunk in (64, 1))
    assert fast > slow
    assert phase_peaks(toy, request, 2 * GB)["painter"] > phase_peaks(toy, request, 10**8)["painter"]
    with pytest.raises(InvalidRequest, match=r"would need 2.0 GB; a render with toy may use 1.0 GB here: \d+ frames"):
        check_fits(toy, make(toy, width=1024, height=1024, num_frames=300))
    assert predict_peak(toy, make(toy)) < predict_peak(toy, request)


def test_its_files(toy: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_files(toy) == {"checkpoint": FOLDER / "toy.safetensors"}
    assert missing_parts(toy) == []
    monkeypatch.setenv("LTX_MODELS_DIR", str(tmp_path))
    (tmp_path / "toy").mkdir()
    converted = tmp_path / "toy" / "toy.safetensors"
    converted.write_bytes((FOLDER / "toy.safetensors").read_bytes())
    assert find_files(toy) == {"checkpoint": converted}


@pytest.fixture
def pipeline(toy: Variant) -> Pipeline:
    return open_pipeline(toy.name)


def rendered(pipeline: Pipeline, **options: Any) -> tuple[list[Progress], Any]:
    """Return the events from which a render can continue, and its result."""
    events = list(pipeline.stream(make(pipeline.variant), **options))
    assert isinstance(events[-1], Finished)
    return [event for event in events if isinstance(event, Progress) and event.resume], events[-1].result


def test_its_pipeline_renders_and_continues_bit_for_bit(pipeline: Pipeline) -> None:
    assert type(pipeline).__name__ == "ToyPipeline"
    reports: list[tuple[float, str]] = []
    pipeline.load_models(lambda fraction, text: reports.append((fraction, text)))
    assert reports == [(0.0, "loading the mixer"), (0.5, "loading the painter"), (1.0, "all models are loaded")]
    steps, whole = rendered(pipeline)
    assert whole.frames.shape == (6, 12, 20, 3)
    assert whole.frames.std() > 1
    np.testing.assert_allclose(whole.brightness, whole.frames.mean((1, 2, 3)))
    places = [(event.stage, event.done) for event in steps]
    assert places == [*(("dream", n) for n in range(1, 6)), *(("polish", n) for n in range(1, 7))]
    for number, event in enumerate(steps, 1):
        later, continued = rendered(pipeline, resume=event.resume)
        assert [(each.stage, each.done) for each in later] == places[number:]
        np.testing.assert_array_equal(continued.frames, whole.frames)
    with pytest.raises(ResumeMismatch):
        list(pipeline.stream(make(pipeline.variant, width=40), resume=steps[1].resume))


def test_its_networks_make_room_for_each_other(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    models = pipeline.models
    models.get("mixer")
    models.get("painter")
    assert set(models._loaded) == {"mixer", "painter"}
    assert models.get_beside("painter", "mixer") is models.get("painter")
    weights = component_weights(pipeline.variant)
    monkeypatch.setattr(models, "budget", sum(weights.values()))  # of which the cache takes a part
    assert models.get_beside("painter", "mixer") is None
    for name in ("mixer", "painter", "mixer"):
        models.clear()
        models.get("painter" if name == "mixer" else "mixer")
        models.get(name)
        assert set(models._loaded) == {name}
    with pytest.raises(OutOfMemory, match="would need"):
        models.expect(make(pipeline.variant, width=1024, height=1024, num_frames=300))


@pytest.mark.lane("models")
@pytest.mark.usefixtures("installed")
def test_it_is_measured() -> None:
    done = ltx("bench", "model", "-v", "toy", "--runs", "1", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["measurements"]
    whole = {row["phase"]: row for row in rows if row["part"] == "whole render"}
    assert list(whole) == ["dream", "polish", "paint", "encode", "all"]
    assert {phase for phase, row in whole.items() if row["predicted_bytes"]} == {"dream", "paint"}
    assert all(row["peak_bytes"] <= row["predicted_bytes"] for row in whole.values() if row["predicted_bytes"])


def test_a_self_test_compares_none_of_its_parts(toy: Variant) -> None:
    assert list(compare_parts(toy)) == []


def until(engine: EngineProcess, seen: list[Any], kind: type) -> None:
    """Add an engine's messages to `seen` until one is of that kind."""
    while not (seen and isinstance(seen[-1], kind)):
        message = engine.receive(timeout=300)
        assert message is not None, "the engine says nothing"
        seen.append(message)


@pytest.mark.usefixtures("installed")
def test_an_engine_renders_with_it(toy: Variant, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    engine = EngineProcess(ENGINE, toy.name)
    try:
        engine.tell(messages.Load())
        seen: list[Any] = []
        until(engine, seen, messages.Ready)
        engine.tell(messages.Render(request=make(toy), checkpoint_every=0, output=tmp_path / "toy.mp4"))
        until(engine, seen, messages.Decoded)
        assert seen[-1].frames == 6
        assert [each.step for each in seen if isinstance(each, messages.Stepped)] == [1, 2, 3, 4, 5]
        began = [each.stage for each in seen if isinstance(each, messages.StageBegan)]
        assert began == [stage.name for stage in toy.family.stages]
        assert any(isinstance(each, messages.HandOver) for each in seen)
    finally:
        engine.end()


@pytest.mark.usefixtures("installed")
def test_an_engine_continues_in_a_stage_of_its_own(toy: Variant, tmp_path: Path) -> None:
    """No step is told as lost, for all are done."""
    (tmp_path / "home").mkdir()
    plan = tuple(StagePlan(name=row.name, label=row.label, counts=row.counts) for row in toy.stages)
    state = apply(Snapshot(), Claimed(attempt=1, worker="w", worker_name="one", stages=plan))
    render = messages.Render(request=make(toy), checkpoint_every=0, output=tmp_path / "toy.mp4", job="1")
    engine = EngineProcess(ENGINE, toy.name)
    try:
        engine.tell(messages.Load())
        until(engine, [], messages.Ready)
        engine.tell(render)
        first: list[Any] = []
        until(engine, first, messages.Decoded)
        places = [(getattr(each, "stage", ""), getattr(each, "done", 0)) for each in first]
        stopped = places.index(("polish", 3))
        engine.tell(render.model_copy(update={"resume": first[stopped].resume}))
        second: list[Any] = []
        until(engine, second, messages.Decoded)
    finally:
        engine.end()
    (resumed,) = (each for each in second if isinstance(each, messages.Resuming))
    assert (resumed.stage, resumed.step) == ("polish", 3)
    for message in (*first[: stopped + 1], *second):
        if event := messages.event_of(message):
            state = apply(state, event)
    assert (state.step, state.lost_steps) == (5, 0)


def test_a_variant_with_fields_of_its_family_only(toy: Variant) -> None:
    """Its row has no text encoder, no bits and sizes of its own."""
    assert set(toy.files) == {"checkpoint"}
    assert dict(toy.bits) == {}
    assert {field.name for field in dataclasses.fields(toy.architecture)} == {"channels", "itemsize"}


def test_threads_that_ask_for_installed_variants_at_once_all_find_them(
    toy: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, may_end, found = threading.Event(), threading.Event(), []

    def installed() -> Iterator[Variant]:
        reading.set()
        assert may_end.wait(60)
        yield toy

    monkeypatch.setattr(variants, "_installed", installed)
    table = variants._Variants([VARIANTS["pocket"]])
    threads = [threading.Thread(target=lambda: found.append("toy" in table)) for _ in range(2)]
    threads[0].start()
    assert reading.wait(60)
    names = iter(table.data)
    assert next(names) == "pocket"
    threads[1].start()
    threads[1].join(0.2)
    may_end.set()
    for thread in threads:
        thread.join(60)
    assert found == [True, True]
    assert list(names) == [], "who iterates meanwhile goes on"
    assert list(table) == ["pocket", "toy"]


def test_an_installed_module_may_itself_ask_for_variants(toy: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "_installed", lambda: iter([toy] if "other" not in table else []))
    table = variants._Variants([VARIANTS["pocket"]])
    assert list(table) == ["pocket", "toy"]
