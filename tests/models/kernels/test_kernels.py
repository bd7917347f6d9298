"""Test the formulas that replace the kernels where there is no GPU, against NumPy; and when a kernel is trusted.

The kernels themselves run only on a GPU, where each is tried against these formulas before it is used.
"""

from __future__ import annotations

import logging
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ltx_models import kernels
from ltx_models.kernels import OPERATIONS, launch
from ltx_models.kernels.launch import BOUNDS, Operation, distance, random_array
from ltx_models.pipeline.text_to_video import LTXPipeline

BATCH, TOKENS, DIM = 2, 3, 12
RNG = np.random.default_rng(0)
X, Y = (RNG.standard_normal((BATCH, TOKENS, DIM)).astype(np.float32) for _ in range(2))
MODULATION, GATES = (RNG.standard_normal((2, 6, DIM)).astype(np.float32) for _ in range(2))
PLACES = {
    "one for all": ([1], [[1, 1, 1], [1, 1, 1]]),
    "one for each token": ([0, 1, 1], [[0, 1, 1], [0, 1, 1]]),
    "one for each of the batch": ([0, 1, 1, 1, 0, 1], [[0, 1, 1], [1, 0, 1]]),
}
CHUNKS = {mx.float32: 4, mx.float16: 8, mx.bfloat16: 8}


def normed(x: np.ndarray, layer_norm: bool = False) -> np.ndarray:
    x = x - x.mean(-1, keepdims=True) if layer_norm else x
    result: np.ndarray = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
    return result


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize("layer_norm", [False, True])
def test_modulation(kind: str, layer_norm: bool) -> None:
    given, of_tokens = PLACES[kind]
    of_each = MODULATION[np.array(of_tokens)]  # (B, N, 6, D): what the operations never make
    ours = kernels.modulate(mx.array(X), mx.array(MODULATION), mx.array(given, mx.int32), 3, 4, 1e-6, layer_norm)
    np.testing.assert_allclose(ours, normed(X, layer_norm) * (1 + of_each[:, :, 4]) + of_each[:, :, 3], atol=1e-5)


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize("gated", [False, True])
def test_adding_a_branch_and_modulating(kind: str, gated: bool) -> None:
    given, of_tokens = PLACES[kind]
    places, modulation = mx.array(given, mx.int32), mx.array(MODULATION)
    of_each, gates = MODULATION[np.array(of_tokens)], GATES[np.array(of_tokens)]
    summed = X + (gates[:, :, 5] if gated else 1) * Y
    row = 5 if gated else -1
    ours = kernels.add_and_modulate(
        mx.array(X), mx.array(Y), mx.array(GATES), row, modulation, places, 0, 1, 1e-6, False
    )
    np.testing.assert_allclose(ours[0], summed, atol=1e-6)
    np.testing.assert_allclose(ours[1], normed(summed) * (1 + of_each[:, :, 1]) + of_each[:, :, 0], atol=1e-5)
    alone = kernels.gated_add(mx.array(X), mx.array(Y), mx.array(GATES), places, 5)
    np.testing.assert_allclose(alone, X + gates[:, :, 5] * Y, atol=1e-6)


def test_queries_and_keys() -> None:
    product = RNG.standard_normal((BATCH, TOKENS, 3 * DIM)).astype(np.float32)
    weights = RNG.standard_normal((2, DIM)).astype(np.float32)
    angles = RNG.standard_normal((1, TOKENS, DIM // 2)).astype(np.float32)
    ours = kernels.norm_and_rotate(
        mx.array(product), *map(mx.array, weights), mx.array(np.cos(angles)), mx.array(np.sin(angles)), 1e-6
    )
    for index, rotated in enumerate(ours):
        x = normed(product[..., index * DIM : (index + 1) * DIM]) * weights[index]
        turned = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)
        np.testing.assert_allclose(rotated[..., ::2], turned.real, atol=1e-5)
        np.testing.assert_allclose(rotated[..., 1::2], turned.imag, atol=1e-5)


def test_gelu_of_a_sum() -> None:
    bias = Y[0, 0]
    x = (X + bias).astype(np.float64)
    expected = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    np.testing.assert_allclose(kernels.bias_gelu(mx.array(X), mx.array(bias)), expected, atol=1e-6)


@pytest.mark.parametrize("with_context", [False, True])
def test_activated_frames_between_their_edges(with_context: bool) -> None:
    frames, context = (RNG.standard_normal((1, count, 2, 2, DIM)).astype(np.float32) for count in (3, 2))
    bias, shift, scale = RNG.standard_normal((3, DIM)).astype(np.float32)
    x = normed(frames + bias) * (1 + scale) + shift
    x = x / (1 + np.exp(-x))
    before = context if with_context else x[:, [0, 0]]
    ours = kernels.activate(
        *map(mx.array, (frames, bias, shift, scale)),
        mx.array(context) if with_context else None,
        0 if with_context else 2,
        1,
        1e-6,
    )
    np.testing.assert_allclose(ours, np.concatenate([before, x, x[:, -1:]], axis=1), atol=1e-5)


def test_a_branch_that_is_behind() -> None:
    frames, kept, branch = (RNG.standard_normal((1, count, 2, 2, DIM)).astype(np.float32) for count in (4, 2, 4))
    bias = Y[0, 0]
    late = kernels.add_delayed(mx.array(kept), mx.array(frames), mx.array(branch), mx.array(bias))
    np.testing.assert_allclose(late, np.concatenate([kept, frames[:, :2]], axis=1) + branch + bias, atol=1e-6)
    at_once = kernels.add_delayed(None, mx.array(frames), mx.array(branch[:, :3]), None)
    np.testing.assert_allclose(at_once, frames[:, :3] + branch[:, :3], atol=1e-6)


def doubling(launched: Any, fits: bool = True) -> tuple[Operation, list[tuple[int, ...]]]:
    """Return an operation whose formula doubles its argument, and the shapes that its kernel was called with."""
    called: list[tuple[int, ...]] = []

    def launch(x: mx.array) -> mx.array:
        called.append(x.shape)
        result: mx.array = launched(x)
        return result

    operation = Operation(
        "doubling",
        plain=lambda x: 2 * x,
        launch=launch,
        fits=lambda x: fits,
        sample=lambda x: (random_array((2, x.shape[-1]), x.dtype, 0),),
    )
    return operation, called


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "backend", lambda: "cuda")


def test_no_kernel_without_a_gpu() -> None:
    operation, called = doubling(lambda x: 2 * x)
    assert operation(mx.ones((4,))).tolist() == [2] * 4
    assert called == []


@pytest.mark.usefixtures("on_a_gpu")
def test_a_kernel_is_tried_once_and_then_used() -> None:
    operation, called = doubling(lambda x: x + x)
    for _ in range(2):
        operation(mx.ones((5, 4)))
    assert called == [(2, 4), (5, 4), (5, 4)]


@pytest.mark.usefixtures("on_a_gpu")
def test_a_kernel_that_is_wrong_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    operation, called = doubling(lambda x: 2.01 * x)
    with caplog.at_level(logging.WARNING):
        assert operation(mx.ones((5, 4))).tolist() == [[2] * 4] * 5
        operation(mx.ones((5, 4)))
    assert called == [(2, 4)]
    assert [record.message for record in caplog.records] == [
        "the kernel doubling is not used, because its result is off by 0.005 on this machine"
    ]


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_rounding_is_believed_and_ten_times_as_much_or_one_wrong_channel_is_not(dtype: mx.Dtype) -> None:
    right = np.random.default_rng(0).standard_normal((16, 8192))
    rounding = {mx.float32: 2.0**-23, mx.float16: 2.0**-10, mx.bfloat16: 2.0**-7}[dtype]
    noise = np.random.default_rng(1).standard_normal(right.shape)
    assert distance(right * (1 + rounding * noise), right) <= BOUNDS[dtype]
    assert not distance(right * (1 + 10 * max(rounding, 2e-5) * noise), right) <= BOUNDS[dtype]
    channel = np.where(np.arange(8192) == 8191, 0, right)
    assert not distance(channel, right) <= BOUNDS[dtype]
    assert np.isnan(distance(np.where(np.arange(8192) == 8191, np.nan, right), right))


@pytest.mark.usefixtures("on_a_gpu")
def test_a_kernel_that_cannot_be_compiled_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: mx.array) -> mx.array:
        raise RuntimeError("Failed to compile kernel: expected a ';'")

    operation, _ = doubling(fail)
    with caplog.at_level(logging.WARNING):
        assert operation(mx.ones((5, 4))).tolist() == [[2] * 4] * 5
    assert "Failed to compile kernel: expected a ';'" in caplog.text


@pytest.mark.usefixtures("on_a_gpu")
def test_a_failure_of_the_gpu_is_no_failure_of_the_kernel_that_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLX raises the error of a command buffer at the next wait of its stream, and once."""
    failed = RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory")

    def fail(*_: mx.array) -> mx.array:
        raise failed

    operation, called = doubling(lambda x: 2 * x)
    with monkeypatch.context() as earlier_work:
        earlier_work.setattr(mx, "synchronize", fail)
        with pytest.raises(RuntimeError, match="Insufficient Memory"):
            operation(mx.ones((5, 4)))
    assert called == [], "the kernel was tried before what was queued earlier had ended"
    operation(mx.ones((5, 4)))
    assert called == [(2, 4), (5, 4)], "the kernel is tried the next time, and believed"

    of_the_trial, _ = doubling(fail)
    with pytest.raises(RuntimeError, match="Insufficient Memory"):
        of_the_trial(mx.ones((5, 4)))


@pytest.mark.usefixtures("on_a_gpu")
def test_kernels_can_be_switched_off_and_refuse_what_does_not_fit() -> None:
    operation, called = doubling(lambda x: 2 * x)
    kernels.kernels_off("doubling")
    operation(mx.ones((5, 4)))
    kernels.kernels_off()
    doubling(lambda x: 2 * x, fits=False)[0](mx.ones((5, 4)))
    assert called == []


@pytest.mark.parametrize("dtype", CHUNKS)
def test_how_many_threads_share_a_row(dtype: mx.Dtype) -> None:
    chunk = CHUNKS[dtype]
    assert launch.threads_for(2048, dtype) == 256
    assert launch.threads_for(chunk, dtype) == 32
    assert launch.threads_for(33 * chunk, dtype) == 64
    assert launch.threads_for(2048 + chunk // 2, dtype) is None
    assert launch.threads_for(256 * 8 * chunk + chunk, dtype) is None


@pytest.mark.usefixtures("on_a_gpu")
def test_whatever_a_render_calls_can_be_tried(pocket: LTXPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels are their formulas here; samples are made of all possible arguments."""
    for operation in OPERATIONS:
        monkeypatch.setattr(operation, "launch", operation.plain)
        monkeypatch.setattr(operation, "_trusted", {})
    pocket.generate_video("a red ball", num_frames=9, num_steps=1, seed=1, on_checkpoint=lambda *_: None)
    pocket.encode(np.zeros((9, 64, 64, 3), np.uint8))
    for operation in OPERATIONS:
        assert set(operation._trusted.values()) == {True}, operation.name
