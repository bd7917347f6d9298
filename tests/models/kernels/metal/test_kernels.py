"""Test each Metal kernel against its formula, within the bounds of a Mac; and that mistakes are found."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ltx_models import kernels
from ltx_models.kernels import frames as frame_kernels
from ltx_models.kernels import launch
from ltx_models.kernels.launch import BOUNDS, Operation, random_array
from tests.models.kernels.metal.emulation import Emulation, Launch, Undefined, compiler, trace

pytestmark = pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")

WIDTHS = (16, 64, 192, 2048, 4096, 8192)
ODD_WIDTH = 4112
CHANNELS = (32, 96, 128, 512, 1024)
SIZES = ((1, 1, 1), (3, 5, 7), (2, 4, 6))
Case = tuple[str, Operation, tuple[Any, ...]]


@pytest.fixture(scope="module", autouse=True)
def on_a_mac() -> Iterator[None]:
    """Choose Metal's kernels, as on a Mac."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "backend", lambda: "metal")
        yield


def places(kind: int, batch: int, tokens: int) -> mx.array:
    """Return one place for all tokens, one for each token, or one for each of the batch."""
    return mx.array([[0], [i % 2 for i in range(tokens)], [7 * i % 3 for i in range(batch * tokens)]][kind], mx.int32)


def of_rows(dtype: mx.Dtype, width: int, batch: int, tokens: int) -> Iterator[Case]:
    """Return the operations of the transformer, at one width."""

    def random(*shape: int, seed: int, scale: float = 1.0) -> mx.array:
        return (random_array(shape, mx.float32, seed) * scale).astype(dtype)

    x, y = (random(batch, tokens, width, seed=seed) for seed in (1, 2))
    for kind, timesteps in enumerate((1, 2, 3)):
        where = places(kind, batch, tokens)
        modulation, gates = random(timesteps, 6, width, seed=3, scale=0.5), random(timesteps, 6, width, seed=4)
        two = random(timesteps, 2, width, seed=5, scale=0.5)
        yield f"rms, {timesteps} places", kernels.modulate, (x, modulation, where, 0, 1, 1e-6, False)
        yield f"layer, {timesteps} places", kernels.modulate, (x, two, where, 0, 1, 1e-6, True)
        gated = (x, y, gates, 5, modulation, where, 3, 4, 1e-6, False)
        yield f"gated, {timesteps} places", kernels.add_and_modulate, gated
        ungated = (x, y, modulation, -1, two, where, 0, 1, 1e-6, True)
        yield f"ungated, layer, {timesteps} places", kernels.add_and_modulate, ungated
        yield f"{timesteps} places", kernels.gated_add, (x, y, gates, where, 2)
    for rows in {1, batch}:
        angles = np.random.default_rng(9).standard_normal((rows, tokens, width // 2)).astype(np.float32)
        turn = mx.array(np.cos(angles)), mx.array(np.sin(angles))
        projected = random(batch, tokens, 3 * width, seed=6)
        weights = random(width, seed=7), random(width, seed=8)
        yield f"{rows} rows of angles", kernels.norm_and_rotate, (projected, *weights, *turn, 1e-5)
    yield "", kernels.bias_gelu, (random(batch, tokens, width, seed=10, scale=3.0), random(width, seed=11))


def of_frames(dtype: mx.Dtype, channels: int, size: tuple[int, int, int]) -> Iterator[Case]:
    """Return the operations of the VAE, at one number of channels."""

    def random(*shape: int, seed: int) -> mx.array:
        return random_array(shape, dtype, seed)

    count, height, width = size
    given = random(1, *size, channels, seed=20)
    bias, shift, scale = (random(channels, seed=seed) for seed in (21, 22, 23))
    context = random(1, 2, height, width, channels, seed=24)
    for label, arguments in {
        "plain": (given, None, None, None, None, 0, 0, 1e-8),
        "edges": (given, bias, shift, scale, None, 1, 1, 1e-8),
        "context": (given, bias, shift, scale, context, 0, 1, 1e-8),
        "causal": (given, None, shift, scale, None, 2, 0, 1e-8),
    }.items():
        yield label, kernels.activate, arguments
    for kept in (None, random(1, 1, height, width, channels, seed=25), random(1, 2, height, width, channels, seed=26)):
        there = count + (0 if kept is None else kept.shape[1])
        for behind in {there, max(1, there - 1)}:
            branch = random(1, behind, height, width, channels, seed=27)
            label = f"{0 if kept is None else kept.shape[1]} kept, {behind} of {there}"
            yield label, kernels.add_delayed, (kept, given, branch, bias)
            yield f"{label}, no bias", kernels.add_delayed, (kept, given, branch, None)


def cases(dtype: mx.Dtype) -> Iterator[Case]:
    """Return every operation, at the models' widths and sizes and at unusual ones."""
    for width in WIDTHS:
        for label, operation, arguments in of_rows(dtype, width, 1 + (width < 2048), 3 + 2 * (width == 64)):
            yield f"{width}, {label}", operation, arguments
    for index, channels in enumerate(CHANNELS):
        for label, operation, arguments in of_frames(dtype, channels, SIZES[index % len(SIZES)]):
            yield f"{channels}, {label}", operation, arguments


def distance(ours: list[Any], operation: Operation, arguments: tuple[Any, ...]) -> float:
    """Return how far results are from those of the formula, as a Mac would find it, the largest of them."""
    expected = operation.plain(*arguments)
    pairs = zip(ours, [expected] if isinstance(expected, mx.array) else expected, strict=True)
    return float(np.max([launch.distance(a, np.array(b.astype(mx.float32), np.float64)) for a, b in pairs]))


@pytest.mark.parametrize("dtype", BOUNDS, ids=lambda dtype: str(dtype).rpartition(".")[2])
def test_every_kernel_gives_what_its_formula_does(dtype: mx.Dtype, tmp_path: Path) -> None:
    made = [(label, operation, arguments) for label, operation, arguments in cases(dtype)]
    assert all(operation._fits(*arguments) for _, operation, arguments in made)
    launches = [trace(operation, arguments) for _, operation, arguments in made]
    emulation = Emulation(launches, tmp_path)
    seen = set()
    for (label, operation, arguments), started in zip(made, launches, strict=True):
        seen.add(operation.name)
        for backwards in (False, True):
            off = distance(emulation.run(started, backwards=backwards), operation, arguments)
            assert off <= BOUNDS[dtype], f"{operation.name}, {label}: off by {off:.2g}"
    assert seen == {operation.name for operation in kernels.OPERATIONS}


def test_an_odd_width_has_no_kernel_or_a_right_one(tmp_path: Path) -> None:
    """4,112 channels are 1,028 chunks: not a multiple of the threads of a group."""
    (started,) = [
        (operation, arguments)
        for label, operation, arguments in of_rows(mx.bfloat16, ODD_WIDTH, 1, 2)
        if operation is kernels.norm_and_rotate
    ]
    traced = trace(*started)
    assert distance(Emulation([traced], tmp_path).run(traced), *started) <= BOUNDS[mx.bfloat16]


SAMPLE = {
    "norm_and_rotate": lambda: next(
        case[1:] for case in of_rows(mx.float32, 2048, 1, 3) if case[1] is kernels.norm_and_rotate
    ),
    "activate": lambda: next(case[1:] for case in of_frames(mx.float32, 512, (3, 5, 7))),
    "add_delayed": lambda: list(of_frames(mx.float32, 96, (3, 5, 7)))[-1][1:],
}
BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);"


def without(text: str, number: int) -> Callable[[str], str]:
    """Return the text without the nth occurrence."""

    def change(source: str) -> str:
        at = [match.start() for match in re.finditer(re.escape(text), source)][number]
        return source[:at] + source[at + len(text) :]

    return change


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("norm_and_rotate", without(BARRIER, 0)),
        ("norm_and_rotate", without(BARRIER, 1)),
        ("norm_and_rotate", lambda source: source.replace(BARRIER, f"if (lane == 0) {BARRIER}", 1)),
        ("norm_and_rotate", lambda source: source.replace("b * c + a * s", "b * c - a * s")),
        ("activate", lambda source: source.replace("if (frame >= layout[3]) return;", "")),
        ("activate", lambda source: source.replace("lane + i * 32", "lane + i * 16")),
        ("add_delayed", lambda source: source.replace("chunk < branch_shape[0] * of_frame", "true")),
    ],
    ids=[
        "without the barrier before a sum",
        "without the barrier after it",
        "a barrier for one lane",
        "a wrong sign",
        "past the last frame",
        "channels twice",
        "past the end",
    ],
)
def test_a_mistake_is_found(name: str, change: Callable[[str], str], tmp_path: Path) -> None:
    operation, arguments = SAMPLE[name]()
    right = trace(operation, arguments)
    changed = change(right.source)
    assert changed != right.source
    wrong = Launch(changed, right.arrays, right.dtype, right.shapes, right.groups, right.threads)
    emulation = Emulation([right, wrong], tmp_path)
    assert distance(emulation.run(right), operation, arguments) <= BOUNDS[mx.float32]
    try:
        off = [distance(emulation.run(wrong, backwards=way), operation, arguments) for way in (False, True)]
    except Undefined:
        return
    assert not max(off) <= BOUNDS[mx.float32], f"not noticed: off by {off}"


def test_channels_that_no_kernel_takes() -> None:
    assert not frame_kernels._fits(mx.zeros((1, 1, 1, 1, 48), mx.bfloat16))
