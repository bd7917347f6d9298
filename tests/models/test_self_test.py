"""Test that the self-test finds faults of a device's computation."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ltx_models import self_test
from ltx_models.families.architectures import Architecture
from ltx_models.families.variants import find_variant
from ltx_models.kernels import OPERATIONS, Operation, launch
from ltx_models.ltxv.measured import parts
from ltx_models.pipeline.text_to_video import LTXPipeline
from ltx_models.self_test import __main__ as command
from ltx_models.self_test import clip, compare
from ltx_models.self_test.clip import render_clip
from ltx_models.self_test.compare import compare_kernels, compare_parts
from ltx_models.transformers import block

POCKET = find_variant("pocket")
PARTS = parts.COMPARED.make


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "TOKENS", (1, 4, 4))
    monkeypatch.setattr(parts, "TILE", (1, 2, 2))


def test_a_device_that_computes_right() -> None:
    found = {compared.part: compared for compared in compare_parts(POCKET)}
    assert found.keys() == PARTS.keys()
    assert all(compared.is_right and compared.milliseconds > 0 for compared in found.values())


@pytest.mark.parametrize("wrong", [1.001, float("nan")])
@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_off_is_told(part: str, wrong: float, monkeypatch: pytest.MonkeyPatch) -> None:
    make, made = PARTS[part], []

    def second_off(architecture: Architecture, dtype: mx.Dtype) -> Callable[[], np.ndarray]:
        compute = make(architecture, dtype)
        made.append(part)
        factor = 1.0 if len(made) == 1 else wrong  # the first is what it is compared with
        return lambda: factor * compute()

    monkeypatch.setitem(PARTS, part, second_off)
    assert [compared.part for compared in compare_parts(POCKET) if not compared.is_right] == [part]


def test_every_kernel_is_compared_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels are their formulas here, and one of them is wrong."""
    monkeypatch.setattr(launch, "backend", lambda: "cuda")
    monkeypatch.setattr(compare, "backend", lambda: "cuda")
    monkeypatch.setattr(block, "backend", lambda: "cuda")  # which has the blocks compiled
    for operation in OPERATIONS:
        monkeypatch.setattr(operation, "launch", operation.plain)
        monkeypatch.setattr(operation, "_trusted", {})
    list(compare_parts(POCKET))
    called = Operation.__call__
    found = list(compare_kernels(POCKET))
    assert Operation.__call__ is called
    assert {compared.part.split()[1].rstrip(",") for compared in found} >= {"activate", "add_delayed", "modulate"}
    assert {compared.part.split()[1].rstrip(",") for compared in found} >= {"norm_and_rotate", "bias_gelu", "gated_add"}
    assert all(compared.is_right for compared in found)
    assert f"kernel modulate, 1x{4 * 4 * 4}x{POCKET.architecture.width}" in {compared.part for compared in found}

    (off,) = (operation for operation in OPERATIONS if operation.name == "activate")

    def launched(*arguments: Any) -> mx.array:
        result: mx.array = 1.5 * off.plain(*arguments)
        return result

    monkeypatch.setattr(off, "launch", launched)
    wrong = [compared.part.split()[1].rstrip(",") for compared in compare_kernels(POCKET) if not compared.is_right]
    assert wrong and set(wrong) == {"activate"}

    # One that a Mac's compiler refuses is a finding, and the others are compared.
    def refused(*_: Any) -> mx.array:
        raise RuntimeError(f"[metal::Device] Unable to build metal library: {said}")

    said = "error: no such type"
    monkeypatch.setattr(off, "launch", refused)
    monkeypatch.setattr(off, "_trusted", {})
    again = list(compare_kernels(POCKET))
    assert len(again) == len(found)
    assert {compared.part.split()[1].rstrip(",") for compared in again if said in compared.problem} == {"activate"}
    assert all(compared.is_right != bool(compared.problem) for compared in again)
    said = launch.COMMAND_BUFFER_FAILED  # which is the GPU's own
    with pytest.raises(RuntimeError):
        list(compare_kernels(POCKET))


def test_without_a_gpu_there_are_no_kernels() -> None:
    assert list(compare_kernels(POCKET)) == []


def test_a_clip_that_is_not_what_its_prompt_says(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = LTXPipeline("pocket").generate_video(clip.PROMPT, seed=0)
    monkeypatch.setattr(LTXPipeline, "generate_video", lambda *_, **__: rendered)
    assert render_clip().problem == ""
    monkeypatch.setattr(clip, "PROMPT", "a small green triangle spins on a pink background")
    assert "does not show what its prompt says" in render_clip().problem
    monkeypatch.setattr(clip, "read_clip", lambda path, most: list(rendered.frames[:-1]))
    assert "were read back" in render_clip().problem
    monkeypatch.setattr(clip, "read_clip", lambda path, most: list(255 - rendered.frames))
    assert "read back from an MP4 differ" in render_clip().problem


@pytest.mark.parametrize(("factor", "code"), [(1.0, 0), (1.5, self_test.WRONG), (float("nan"), self_test.WRONG)])
def test_the_exit_code_says_it(factor: float, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def once_off(compare_with: str) -> Callable[[], np.ndarray]:
        made.append(compare_with)
        return lambda: np.full(4, factor if len(made) > 1 else 1.0)

    monkeypatch.setattr(parts.COMPARED, "make", {"VAE tile": lambda *_: once_off("VAE tile")})
    monkeypatch.setattr(command, "render_clip", lambda: clip.Clip("", 1.0, 40.0, 9))
    monkeypatch.setattr(sys, "argv", ["self_test", "pocket"])
    assert command.main() == code


@pytest.mark.parametrize(
    ("arguments", "said"), [(["nosuch"], "there is no variant 'nosuch'"), ([], "required: variant")]
)
def test_a_wrong_command_line_is_no_traceback(arguments: list[str], said: str) -> None:
    done = subprocess.run([sys.executable, "-m", "ltx_models.self_test", *arguments], capture_output=True, text=True)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
