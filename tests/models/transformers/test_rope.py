"""Test the rotary embedding against a slow computation in float64 that shares no code with it."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest

from ltx_models.transformers.ltxv import TransformerConfig, pixel_coordinates, rope_tables, rotate


def config(heads: int, head_dim: int) -> TransformerConfig:
    return TransformerConfig(
        num_attention_heads=heads,
        attention_head_dim=head_dim,
        num_layers=1,
        in_channels=4,
        out_channels=4,
        caption_channels=4,
    )


def rotated_slowly(x: np.ndarray, coordinates: np.ndarray, frame_rate: float) -> np.ndarray:
    """Rotate one token at a time: x (N, D), coordinates (3, N); each pair of channels is a complex number."""
    tokens, dim = x.shape
    count = dim // 6
    maxima = (20.0, 2048.0, 2048.0)
    out = x.astype(np.float64).copy()
    for token in range(tokens):
        frame, row, column = (float(value) for value in coordinates[:, token])
        places = [value / most for value, most in zip((frame / frame_rate, row, column), maxima, strict=True)]
        channel = dim % 6
        for index in range(count):
            frequency = 10_000.0 ** (index / (count - 1)) * math.pi / 2
            for place in places:
                turned = complex(out[token, channel], out[token, channel + 1]) * np.exp(
                    1j * frequency * (2 * place - 1)
                )
                out[token, channel : channel + 2] = turned.real, turned.imag
                channel += 2
    return out


@pytest.mark.parametrize(("heads", "head_dim"), [(4, 16), (2, 24), (4, 64), (2, 13)])  # dim % 6: 4, 0, 4, 2
@pytest.mark.parametrize("causal", [False, True])
def test_rotation(heads: int, head_dim: int, causal: bool) -> None:
    coordinates = pixel_coordinates(3, 2, 3, causal=causal)
    x = np.random.default_rng(0).standard_normal((1, 18, heads * head_dim)).astype(np.float32)
    ours = rotate(mx.array(x), rope_tables(coordinates, 25.0, config(heads, head_dim)))
    # At the top angle, 15,708, half a float32 ulp is 5e-4, and the fraction and the frequency bring as much each.
    np.testing.assert_allclose(np.array(ours)[0], rotated_slowly(x[0], coordinates[0], 25.0), atol=1e-2)
    assert np.linalg.norm(np.array(ours)) == pytest.approx(np.linalg.norm(x), rel=1e-6)


def test_tables_stay_float32_and_so_does_the_rotation_of_bfloat16() -> None:
    tables = rope_tables(pixel_coordinates(2, 2, 2, causal=False), 25.0, config(4, 16))
    assert [table.dtype for table in tables] == [mx.float32, mx.float32]
    x = mx.random.normal((1, 8, 64), key=mx.random.key(0)).astype(mx.bfloat16)
    expected = rotate(x.astype(mx.float32), tables).astype(mx.bfloat16)
    assert mx.array_equal(rotate(x, tables), expected)


def test_tables_lie_row_by_row_as_kernels_read_them() -> None:
    tables = rope_tables(pixel_coordinates(2, 3, 4, causal=False), 25.0, config(4, 16))
    assert all(memoryview(table).c_contiguous for table in tables)


def test_causal_positions_shift_all_frames_but_the_first() -> None:
    plain, causal = (pixel_coordinates(4, 1, 1, causal=flag)[0, 0].tolist() for flag in (False, True))
    assert plain == [0, 8, 16, 24]
    assert causal == [0, 1, 9, 17]
