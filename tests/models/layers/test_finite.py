"""Test that NaN and infinite values, wherever they come from, end a render before anybody sees or stores them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ltx_models import events
from ltx_models.errors import FaultKind, NotFinite
from ltx_models.layers.finite import CheckedConversion, all_finite
from ltx_models.pipeline.text_to_video import LTXPipeline
from ltx_models.request import GenerationRequest
from ltx_models.text_encoders.t5 import T5Encoder
from ltx_models.transformers.ltxv import Transformer
from ltx_models.vae.encoder import Encoder

REQUEST = GenerationRequest(prompt="a red ball", width=64, height=64, num_frames=17, num_steps=4, seed=1)
BAD = [float("nan"), float("inf"), float("-inf")]


@pytest.fixture(scope="module")
def pipeline() -> LTXPipeline:
    return LTXPipeline("pocket")


def spoiled(value: float, call: Callable[..., mx.array], from_call: int = 1) -> Callable[..., mx.array]:
    """Return `call`, but from that call on one of the values is the bad one."""
    calls = 0

    def spoil(*args: Any, **options: Any) -> mx.array:
        nonlocal calls
        calls += 1
        result = call(*args, **options)
        if calls >= from_call:
            flat = result.reshape(-1)
            flat[flat.size // 2] = value
            return flat.reshape(result.shape)
        return result

    return spoil


def follow(stream: Iterator[events.Event]) -> tuple[list[events.Event], NotFinite]:
    """Return what happened before the error, and the error."""
    happened: list[events.Event] = []
    with pytest.raises(NotFinite) as raised:
        happened.extend(noted(stream, happened))
    assert raised.value.kind is FaultKind.NUMBERS
    return happened, raised.value


def noted(stream: Iterator[events.Event], happened: list[events.Event]) -> Iterator[events.Event]:
    """Record each event as it comes."""
    for event in stream:
        happened.append(event)
    yield from ()


@pytest.mark.parametrize("value", BAD)
def test_of_a_step(pipeline: LTXPipeline, monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    monkeypatch.setattr(Transformer, "__call__", spoiled(value, Transformer.__call__, from_call=3))
    happened, error = follow(pipeline.stream(REQUEST))
    assert str(error) == "the latents of step 3 of 4 came out as NaN or infinite values"
    steps = [event for event in happened if isinstance(event, events.Stepped)]
    assert [event.step for event in steps] == [1, 2]
    assert all(np.isfinite(event.resume.arrays["latents"]).all() for event in steps)


@pytest.mark.parametrize("value", BAD)
def test_of_a_text(pipeline: LTXPipeline, monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    monkeypatch.setattr(T5Encoder, "__call__", spoiled(value, T5Encoder.__call__))
    happened, error = follow(pipeline.stream(REQUEST))
    assert "the text's embeddings" in str(error)
    assert [event.stage for event in happened if isinstance(event, events.StageBegan)] == ["text"]
    assert len(happened) == 1


def test_of_a_picture(pipeline: LTXPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Encoder, "__call__", spoiled(float("nan"), Encoder.__call__))
    with pytest.raises(NotFinite, match="a picture or a clip"):
        pipeline.encode(np.zeros((1, 64, 64, 3), np.uint8))


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("frames", [1, 17])
def test_of_the_decoded_frames(
    pipeline: LTXPipeline, monkeypatch: pytest.MonkeyPatch, value: float, frames: int
) -> None:
    bias = pipeline.models.vae.decoder.conv_out.conv.bias
    broken = mx.array([value, *[0.0] * (bias.size - 1)])
    monkeypatch.setitem(pipeline.models.vae.decoder.conv_out.conv, "bias", broken)
    request = GenerationRequest(prompt="a ball", width=64, height=64, num_frames=frames, num_steps=1, seed=1)
    happened, error = follow(pipeline.stream(request))
    assert "the decoded frames" in str(error)
    assert not any(isinstance(event, events.Decoded | events.Finished) for event in happened)


def test_of_a_late_piece_of_the_frames() -> None:
    convert = CheckedConversion(lambda pixels: pixels)
    convert(mx.zeros(4))
    convert.check(all_done=True)
    convert(mx.array([0.0, float("nan")]))
    convert.check()  # the newest, which may still be computed
    convert(mx.zeros(4))
    with pytest.raises(NotFinite):
        convert.check()


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
def test_large_values_are_finite(dtype: mx.Dtype) -> None:
    values = mx.full((1000,), 60_000.0, dtype)
    assert all_finite(values).item()
    for bad in BAD:
        values[7] = bad
        assert not all_finite(values).item()
    values[8] = float("inf")
    values[9] = float("-inf")
    assert not all_finite(values).item()


@pytest.mark.lane("models")
def test_the_check_costs_next_to_nothing_of_a_step(pipeline: LTXPipeline) -> None:
    """At the size that pocket is for, it takes less than a fiftieth of a step."""
    steps = list(pipeline.stream(GenerationRequest(prompt="a red ball", seed=1, num_steps=6)))
    step = statistics.median(event.seconds for event in steps if isinstance(event, events.Stepped))
    latents = next(mx.array(event.resume.arrays["latents"]) for event in steps if isinstance(event, events.Stepped))
    mx.eval(latents)

    def check() -> float:
        began = time.perf_counter()
        assert all_finite(latents).item()
        return time.perf_counter() - began

    assert statistics.median(check() for _ in range(50)) < step / 50
