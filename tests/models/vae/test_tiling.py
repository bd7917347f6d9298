"""Test decoding in pieces against decoding whole: random weights, a latent of 13 frames, 16 rows and 24 columns."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_map

from ltx_models.errors import OutOfMemory
from ltx_models.memory import DecodePlan
from ltx_models.vae import tiling
from ltx_models.vae.blocks import PADDINGS
from ltx_models.vae.decoder import Decoder
from ltx_models.vae.tiling import decode_frames, decode_streamed, decode_tiled, tile_spans, tile_weights
from tests.models.conftest import relative_error

LATENT = (1, 13, 16, 24, 8)
SMALL = (1, 13, 4, 6, 8)
"""A sixteenth of it, where the size does not matter: a CPU's convolutions are slow."""
LAYOUTS: dict[str, list[tuple[str, Any]]] = {
    "0.9.0": [
        ("res_x", 1),
        ("compress_all", 1),
        ("res_x_y", 1),
        ("res_x", 1),
        ("compress_all", 1),
        ("res_x_y", 1),
        ("res_x", 1),
        ("compress_all", 1),
        ("res_x", 1),
    ],
    "0.9.8": [
        ("res_x", {"num_layers": 1}),
        ("compress_all", {"residual": True, "multiplier": 2}),
        ("res_x", {"num_layers": 1}),
        ("compress_all", {"residual": True, "multiplier": 2}),
        ("res_x", {"num_layers": 1}),
        ("compress_all", {"residual": True, "multiplier": 2}),
        ("res_x", {"num_layers": 2}),
    ],
    "apart": [("res_x", 2), ("compress_space", {"residual": True}), ("res_x", 1), ("compress_time", 1)],
}


def make(layout: str, *, causal: bool = False, timestep_conditioning: bool = True, padding: str = "zeros") -> Decoder:
    """Return a decoder whose arrays have about the size of those in a trained one."""
    decoder = Decoder(
        LAYOUTS[layout],
        latent_channels=LATENT[-1],
        base_channels=4,
        patch_size=4,
        causal=causal,
        timestep_conditioning=timestep_conditioning,
        padding=padding,
    )
    keys = iter(mx.random.split(mx.random.key(3), 1000))

    def draw(value: mx.array) -> mx.array:
        deviation = (value.size / len(value)) ** -0.5 if value.ndim > 1 else 0.1
        return deviation * mx.random.normal(value.shape, key=next(keys))

    decoder.update(tree_map(draw, decoder.parameters()))
    if timestep_conditioning:
        decoder.timestep_scale_multiplier = mx.array(1000.0)
    return decoder


def latents(shape: tuple[int, ...] = LATENT) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(0))


TIMESTEP = mx.array([0.05])


def unchanged(pixels: mx.array) -> mx.array:
    return pixels


def decoded(decoder: Decoder, z: mx.array, *plans: DecodePlan) -> list[np.ndarray]:
    return list(decode_frames(decoder, z, TIMESTEP, plans, unchanged))


def assert_streaming_is_exact(decoder: Decoder, z: mx.array, chunk_bytes: int) -> None:
    whole = np.array(decoder(z, TIMESTEP))
    chunks = [np.array(chunk) for chunk in decode_streamed(decoder, z, TIMESTEP, chunk_bytes)]
    assert len(chunks) > 4
    assert relative_error(np.concatenate(chunks, axis=1), whole) < 1e-5


@pytest.mark.lane("models")
def test_streaming_is_exact() -> None:
    assert_streaming_is_exact(make("0.9.8"), latents(), 300_000)


@pytest.mark.lane("models")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("timestep_conditioning", [False, True])
def test_streaming_is_exact_for_every_layout(layout: str, causal: bool, timestep_conditioning: bool) -> None:
    decoder = make(layout, causal=causal, timestep_conditioning=timestep_conditioning)
    assert_streaming_is_exact(decoder, latents(SMALL), 18_000)


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("causal", [False, True])
def test_streaming_a_few_frames_one_by_one(frames: int, causal: bool) -> None:
    """These are as few as the convolutions cover, or fewer, so that a stream begins and ends at once."""
    decoder = make("0.9.8", causal=causal)
    few = latents()[:, :frames, :3, :2]
    whole = np.array(decoder(few, TIMESTEP))
    chunks = [np.array(chunk) for chunk in decode_streamed(decoder, few, TIMESTEP, 1)]
    assert sum(chunk.shape[1] for chunk in chunks) == 8 * (frames - 1) + 1
    assert relative_error(np.concatenate(chunks, axis=1), whole) < 1e-5


@pytest.mark.parametrize(
    ("padding", "frames"),
    [pytest.param("zeros", LATENT[1], marks=pytest.mark.lane("models")), *((p, 2) for p in PADDINGS if p != "zeros")],
)
def test_tiles_meet_without_a_seam(padding: str, frames: int) -> None:
    decoder = make("0.9.8", padding=padding)
    z = latents()[:, :frames]
    whole = np.array(decoder(z, TIMESTEP))[0]
    tiled = np.concatenate(decoded(decoder, z, DecodePlan(2_000_000, tile=16)))
    assert tiled.shape == whole.shape
    difference = np.abs(tiled - whole) / (whole.max() - whole.min())
    mean, high = difference.mean(), np.quantile(difference, 0.999)
    print(f"{padding}: mean {mean:.3%}, 99.9th percentile {high:.3%} of the range")  # noqa: T201
    assert mean < 0.005
    assert high < 0.03


@pytest.mark.lane("models")
def test_memory_falls_with_the_size_of_the_pieces() -> None:
    decoder = make("0.9.8")
    mx.eval(decoder.parameters())
    z = latents()[:, :5]
    peaks = []
    for plan in (None, DecodePlan(1_000_000), DecodePlan(200_000, 12)):
        mx.synchronize()
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        if plan is None:
            mx.eval(decoder(z, TIMESTEP))
        else:
            for pixels in decode_tiled(decoder, z, TIMESTEP, plan):
                mx.eval(pixels)
            del pixels
        peaks.append(mx.get_peak_memory() - before)
        print(f"{plan}: {peaks[-1] / 1e6:.0f} MB")  # noqa: T201
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[-1] < peaks[0] / 3


@pytest.mark.parametrize("size", [9, 16, 17, 24, 38, 64])
@pytest.mark.parametrize("tile", [10, 12, 16, 24])
def test_tiles_cover_a_side_and_weigh_one(size: int, tile: int) -> None:
    spans = tile_spans(size, tile)
    assert (spans[0][0], spans[-1][1]) == (0, size)
    assert all(stop - start == min(size, tile) for start, stop in spans)
    assert all(first[1] - second[0] >= 6 for first, second in itertools.pairwise(spans))
    total = np.zeros(4 * size)
    for (start, stop), weights in zip(spans, tile_weights(spans, 4), strict=True):
        total[4 * start : 4 * stop] += weights
    np.testing.assert_allclose(total, 1, atol=1e-6)


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception, *, after: int, up_to: int) -> list[int]:
    """Let streams with chunks above `up_to` bytes raise `error` after so many chunks; return the attempts."""
    tried: list[int] = []
    real = tiling.decode_streamed

    def fake(decoder: Any, z: Any, timestep: Any, chunk_bytes: int, *rest: Any) -> Iterator[mx.array]:
        tried.append(chunk_bytes)
        for index, chunk in enumerate(real(decoder, z, timestep, chunk_bytes, *rest)):
            if chunk_bytes > up_to and index == after:
                raise error
            yield chunk

    monkeypatch.setattr(tiling, "decode_streamed", fake)
    return tried


PLANS = [DecodePlan(50_000), DecodePlan(25_000), DecodePlan(18_000)]


@pytest.mark.lane("models")
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory"),
        RuntimeError("[malloc] Unable to allocate 1000 bytes."),
        MemoryError("std::bad_alloc"),
    ],
)
@pytest.mark.parametrize("after", [0, 2])
def test_smaller_pieces_are_tried_when_memory_runs_out(
    monkeypatch: pytest.MonkeyPatch, error: Exception, after: int
) -> None:
    """Frames that were returned before are not returned again."""
    decoder = make("0.9.8")
    z = latents(SMALL)
    whole = np.array(decoder(z, TIMESTEP))[0]
    tried = failing(monkeypatch, error, after=after, up_to=18_000)
    assert relative_error(np.concatenate(decoded(decoder, z, *PLANS)), whole) < 1e-5
    assert tried == [50_000, 25_000, 18_000]


def test_the_smallest_pieces_may_not_fit_either(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, MemoryError(), after=0, up_to=0)
    with pytest.raises(OutOfMemory, match="smaller size"):
        decoded(make("0.9.8"), latents(SMALL), *PLANS)


def test_other_errors_are_not_taken_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = failing(monkeypatch, RuntimeError("[conv] shapes do not match"), after=0, up_to=0)
    with pytest.raises(RuntimeError, match="shapes"):
        decoded(make("0.9.8"), latents(SMALL), *PLANS)
    assert len(tried) == 1
