"""Test `ltx bench model`, on the bundled model's sizes."""

from __future__ import annotations

import importlib.util
import json
import platform
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest
from click.testing import CliRunner
from mlx.utils import tree_flatten

from ltx_client.cli import main
from ltx_client.commands.bench import model
from ltx_models.benchmark import renders
from ltx_models.errors import OutOfMemory
from ltx_models.families.architectures import POCKET
from ltx_models.families.variants import find_variant
from ltx_models.ltxv.measured.random_models import random_transformer
from ltx_models.request import GenerationRequest

SMALL = ["bench", "model", "--width", "64", "--height", "64", "--frames", "9", "--steps", "2", "--runs", "1"]
PARTS = {
    ("text encoding, 256 tokens", ""),
    ("DiT step, 8 tokens", ""),
    ("DiT step with CFG and STG, 8 tokens", ""),
    ("VAE decode", ""),
    ("preview", ""),
    *(("whole render", phase) for phase in ("text", "denoise", "decode", "encode", "all")),
    *((f"denoising, {previews}", "") for previews in ("no previews", "every 3 steps", "a preview every step")),
    *(("clip after clip", phase) for phase in ("denoise", "decode", "all else", "all")),
}


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(main, list(arguments))


def test_every_part_is_measured() -> None:
    done = invoke(*SMALL, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["variant"], report["device"], report["dtype"]) == ("pocket", "CPU", "float32")
    rows = report["measurements"]
    assert {(row["part"], row["phase"]) for row in rows} == PARTS
    assert all(0 < row["least"] <= row["milliseconds"] and row["runs"] == 1 for row in rows)
    assert all(row["peak_bytes"] for row in rows if row["phase"] != "encode")
    predicted = {row["phase"] for row in rows if row["predicted_bytes"]}
    assert predicted == {"text", "denoise", "decode"}
    phases = {row["phase"]: row["milliseconds"] for row in rows if row["part"] == "whole render"}
    assert phases.pop("all") == pytest.approx(sum(phases.values()))
    between = {row["phase"]: row["milliseconds"] for row in rows if row["part"] == "clip after clip"}
    assert between.pop("all") == pytest.approx(sum(between.values()))


@pytest.mark.parametrize(
    ("bits", "fp8", "least", "most"), [(None, False, 0.99, 1.01), (8, False, 0.5, 0.6), (None, True, 0.5, 0.6)]
)
def test_a_random_transformer_is_stored_as_the_variant_says(
    bits: int | None, fp8: bool, least: float, most: float
) -> None:
    def size(**options: Any) -> int:
        parameters: Any = tree_flatten(random_transformer(POCKET, mx.bfloat16, **options).parameters())
        return sum(value.nbytes for _, value in parameters)

    assert least < size(bits=bits, fp8=fp8) / size() < most


def row(**values: Any) -> dict[str, Any]:
    return {
        "part": "preview",
        "phase": "",
        "engine": "mlx",
        "milliseconds": 1234.5,
        "least": 9,
        "peak_bytes": 1,
        "predicted_bytes": 0,
        **values,
    }


def test_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "_run", lambda _: [{"device": "CPU"}, row(), row(part="whole render", phase="decode")])
    lines = invoke(*SMALL).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["PART", "preview", "whole"]
    assert "1,234.5 ms" in lines[1]
    assert lines[2].startswith("whole render: decode")


@pytest.mark.lane("models")
@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_the_plot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(model, "_run", lambda _: [{"device": "CPU"}, row()])
    assert invoke(*SMALL, "--plot", str(tmp_path / "bars.png")).exit_code == 0
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "absent", "words"),
    [
        ([], "mlx", "measuring needs MLX, which the base install leaves out: pip install 'ltx-farm[worker]'"),
        (["--plot", "x.png"], "matplotlib", "--plot needs matplotlib; run pip install 'ltx-farm[plot]'"),
        (["--compare", "diffusers"], "diffusers", "--compare diffusers needs torch and diffusers"),
    ],
)
def test_what_is_not_installed_is_said_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], absent: str, words: str
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == absent else real(name, *rest))
    done = invoke(*SMALL, *arguments)
    assert done.exit_code == 2
    assert words in done.stderr


def test_a_wrong_size_is_refused() -> None:
    done = invoke("bench", "model", "--width", "65")
    assert done.exit_code == 2


def test_what_is_sent_of_memory_names_nobody() -> None:
    machine = {"device": "Apple M1", "dtype": "bfloat16", "mlx": "0.32.4"}
    row = {"part": "whole render", "phase": "decode", "peak_bytes": 3 * 10**9, "predicted_bytes": 2 * 10**9}
    rows = [row, {**row, "phase": "denoise", "peak_bytes": 10**9}, {**row, "phase": "step", "predicted_bytes": 0}]
    *head, first, second = model.memory_report("distilled", machine, rows)
    assert (first, second) == ("  whole render: decode: 3.00 / 2.00  OVER", "  whole render: denoise: 1.00 / 2.00")
    assert "Apple M1" in head[1] and "over its prediction" in head[2]
    assert platform.node() not in " ".join(head)


def test_a_machine_with_too_little_memory_is_told_and_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renders.psutil, "virtual_memory", lambda: SimpleNamespace(available=8 * 10**9))
    dev = find_variant("dev")
    with pytest.raises(OutOfMemory, match=r"measuring dev needs 1\d\.\d GB of memory, .* and 8\.0 GB are free"):
        renders.check_memory(dev, GenerationRequest(prompt="a", seed=0).resolve(dev))
    pocket = find_variant("pocket")
    renders.check_memory(pocket, GenerationRequest(prompt="a", seed=0).resolve(pocket))


@pytest.mark.lane("models")
def test_for_memory_only_renders_are_measured_that_have_a_prediction() -> None:
    done = invoke(*SMALL, "--memory", "--json")
    assert {row["part"] for row in json.loads(done.stdout)["measurements"]} == {"whole render"}


@pytest.mark.lane("models")
@pytest.mark.parametrize("option", ["--steps", "--width", "--frames"])
def test_nothing_of_an_option_is_not_the_variants(option: str) -> None:
    done = invoke("bench", "model", "--memory", option, "0")
    assert done.exit_code == 2 and "0" in done.stderr
