"""Decoding in pieces against decoding whole: random weights, a latent of 13 frames, 16 rows and 24 columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_map

from ltx_models.errors import OutOfMemory
from ltx_models.memory import DecodePlan
from ltx_models.vae import tiling
from ltx_models.vae.decoder import Decoder
from ltx_models.vae.tiling import decode_frames, decode_streamed, decode_tiled, tile_spans, tile_weights
from tests.models.conftest import relative_error

LATENT = (1, 13, 16, 24, 8)
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


def make(layout: str, *, causal: bool = False, timestep_conditioning: bool = True) -> Decoder:
    """A decoder whose arrays keep about the size that they have in a trained one."""
    decoder = Decoder(
        LAYOUTS[layout],
        latent_channels=LATENT[-1],
        base_channels=4,
        patch_size=4,
        causal=causal,
        timestep_conditioning=timestep_conditioning,
    )
    keys = iter(mx.random.split(mx.random.key(3), 1000))

    def draw(value: mx.array) -> mx.array:
        deviation = (value.size / len(value)) ** -0.5 if value.ndim > 1 else 0.1
        return deviation * mx.random.normal(value.shape, key=next(keys))

    scale = mx.array(1000.0)
    decoder.update(tree_map(draw, decoder.parameters()))
    if timestep_conditioning:
        decoder.timestep_scale_multiplier = scale
    return decoder


def latents() -> mx.array:
    return mx.random.normal(LATENT, key=mx.random.key(0))


TIMESTEP = mx.array([0.05])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("timestep_conditioning", [False, True])
def test_streaming_is_exact(layout: str, causal: bool, timestep_conditioning: bool) -> None:
    decoder = make(layout, causal=causal, timestep_conditioning=timestep_conditioning)
    whole = np.array(decoder(latents(), TIMESTEP))
    for chunk_bytes in (1, 1_000_000):
        chunks = [np.array(chunk) for chunk in decode_streamed(decoder, latents(), TIMESTEP, chunk_bytes)]
        assert len(chunks) > 2
        assert relative_error(np.concatenate(chunks, axis=1), whole) < 1e-5
