"""Why Metal computes no convolution by Winograd's transform (`ltx_models.gpu_environment`): what it does to a picture.

MLX 0.32.4 splits a 3x3x3 convolution into three of two dimensions, and computes large ones by F(6x6, 3x3) (Lavin and
Gray, arXiv:1509.09308, the points 0, 1, -1, 2, -2, 1/2, -1/2 and infinity), storing what it has transformed in the
arrays' own type. Simulated here, with bfloat16 wherever an array is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file

from ltx_models.pipeline.text_to_video import LTXPipeline
from ltx_models.vae.blocks import CausalConv3d, convolved_by_products

TILE, KERNEL = 6, 3
SIZE = TILE + KERNEL - 1
INPUT = """
    1 0 -21/4 0 21/4 0 -1 0
    0 1 1 -17/4 -17/4 1 1 0
    0 -1 1 17/4 -17/4 -1 1 0
    0 1/2 1/4 -5/2 -5/4 2 1 0
    0 -1/2 1/4 5/2 -5/4 -2 1 0
    0 2 4 -5/2 -5 1/2 1 0
    0 -2 4 5/2 -5 -1/2 1 0
    0 -1 0 21/4 0 -21/4 0 1
"""
FILTER = """
    1 0 0
    -2/9 -2/9 -2/9
    -2/9 2/9 -2/9
    1/90 1/45 2/45
    1/90 -1/45 2/45
    32/45 16/45 8/45
    32/45 -16/45 8/45
    0 0 1
"""
OUTPUT = """
    1 1 1 1 1 1 1 0
    0 1 -1 2 -2 1/2 -1/2 0
    0 1 1 4 4 1/4 1/4 0
    0 1 -1 8 -8 1/8 -1/8 0
    0 1 1 16 16 1/16 1/16 0
    0 1 -1 32 -32 1/32 -1/32 1
"""
Convolution = Callable[[mx.array, mx.array], mx.array]


def matrix(text: str) -> mx.array:
    """Return the numbers of a table."""
    return mx.array([[float(Fraction(number)) for number in row.split()] for row in text.strip().splitlines()])


def exactly(x: mx.array) -> mx.array:
    """Keep what is stored as it is."""
    return x


def in_bfloat16(x: mx.array) -> mx.array:
    """Round what is stored to bfloat16."""
    return x.astype(mx.bfloat16).astype(mx.float32)


def direct(stored: Callable[[mx.array], mx.array]) -> Convolution:
    """Return a convolution of padded (B, F, H, W, C) by (O, 3, 3, 3, C), summed in float32."""
    return lambda x, weight: stored(convolved_by_products(stored(x), stored(weight)))


def winograd(stored: Callable[[mx.array], mx.array]) -> Convolution:
    """Return the same by the transform."""
    of_input, of_filter, of_output = map(matrix, (INPUT, FILTER, OUTPUT))

    def convolution(x: mx.array, weight: mx.array) -> mx.array:
        height, width = (side - KERNEL + 1 for side in x.shape[2:4])
        rows, columns = (-(-side // TILE) for side in (height, width))
        more = [(0, tiles * TILE - side) for tiles, side in ((rows, height), (columns, width))]
        x = mx.pad(stored(x), [(0, 0), (0, 0), *more, (0, 0)])
        places = [mx.arange(SIZE) + TILE * mx.arange(tiles)[:, None] for tiles in (rows, columns)]
        tiles = x[:, :, places[0][:, None, :, None], places[1][None, :, None, :]]  # (B, F, rows, columns, 8, 8, C)
        tiles = stored(mx.einsum("ai,bfrqijc,dj->bfrqadc", of_input, tiles, of_input))
        filters = stored(mx.einsum("ai,otijc,dj->otadc", of_filter, stored(weight), of_filter))
        frames = x.shape[1] - KERNEL + 1
        total = None
        for t in range(KERNEL):
            product = stored(mx.einsum("bfrqadc,oadc->bfrqado", tiles[:, t : t + frames], filters[:, t]))
            one = stored(mx.einsum("xa,bfrqado,yd->bfrxqyo", of_output, product, of_output))
            total = one if total is None else stored(total + one)
        assert total is not None
        return total.reshape(len(x), frames, rows * TILE, columns * TILE, -1)[:, :, :height, :width]

    return convolution


def off(ours: mx.array, expected: mx.array) -> float:
    """Return the relative L2 distance."""
    return float(mx.linalg.norm((ours - expected).flatten()) / mx.linalg.norm(expected.flatten()))


def test_the_transform_is_a_convolution() -> None:
    x, weight = (mx.random.normal(shape, key=mx.random.key(1)) for shape in ((1, 4, 15, 11, 8), (5, 3, 3, 3, 8)))
    assert off(winograd(exactly)(x, weight), direct(exactly)(x, weight)) < 1e-5


def test_a_convolution_in_bfloat16_is_many_times_less_exact_by_it() -> None:
    x = mx.random.normal((1, 3, 20, 20, 128), key=mx.random.key(0))
    weight = mx.random.normal((128, 3, 3, 3, 128), key=mx.random.key(1)) / 60
    expected = direct(exactly)(in_bfloat16(x), in_bfloat16(weight))
    assert off(direct(in_bfloat16)(x, weight), expected) < 0.003
    assert off(winograd(in_bfloat16)(x, weight), expected) > 0.03


def test_a_decoded_clip_loses_by_it(pocket: LTXPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the VAE's convolutions, like each of the larger models', is large enough for MLX to do it."""
    latents = load_file(Path(__file__).parents[2] / "data/pocket/golden.safetensors")["latents"][:, :, :2]

    def decoded(convolution: Convolution) -> np.ndarray:
        def convolved(self: CausalConv3d, x: mx.array, *, is_picture: bool) -> mx.array:
            assert self.padding == "zeros" and not is_picture
            return convolution(mx.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)]), self.conv.weight)

        monkeypatch.setattr(CausalConv3d, "_convolved", convolved)
        return pocket.decode(latents, timestep=0.05)

    def psnr(frames: np.ndarray, expected: np.ndarray) -> float:
        return float(-10 * np.log10(np.mean((frames.astype(np.float64) - expected) ** 2)))

    expected = decoded(direct(exactly))
    plain, transformed = (psnr(decoded(make(in_bfloat16)), expected) for make in (direct, winograd))
    assert plain > transformed + 5, (plain, transformed)
    print(f"{plain:.1f} dB directly, {transformed:.1f} dB by Winograd's transform")  # noqa: T201
