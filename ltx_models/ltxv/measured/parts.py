"""The parts of LTX-Video that a self-test compares: one block of each network, with random weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import mlx.core as mx
import numpy as np

from ltx_models.families.architectures import Architecture
from ltx_models.ltxv.measured.bench import PROMPT_TOKENS, TIMESTEP
from ltx_models.ltxv.measured.random_models import random_text_encoder, random_transformer, random_vae
from ltx_models.memory import DecodePlan
from ltx_models.sampling.latents import to_tokens
from ltx_models.self_test.compare import Parts
from ltx_models.transformers.ltxv import pixel_coordinates

__all__ = ["COMPARED"]

TOKENS = (2, 16, 16)
"""Latent frames, rows and columns of the transformer's test; its kernels' test is of a whole video."""
TILE = (2, 8, 8)
"""Latent frames, rows and columns of the VAE's test: of the size for which MLX would use Winograd's transform."""
BOUNDS = {
    mx.bfloat16: {"transformer block": 0.02, "VAE tile": 0.04, "text encoder block": 0.06},
    mx.float32: {"transformer block": 1e-4, "VAE tile": 1e-4, "text encoder block": 1e-4},
}
"""The largest relative L2 distances from float32 on the CPU at which a part is right. In bfloat16 the distances are
0.006, 0.012 and 0.018 on an H200, and 0.006, 0.018 and 0.025 on a CPU, the tile's 0.021 there with 2B's widths;
Winograd's transform would make that 0.06 (simulated by noise of its size). A Mac's GPU has not been measured yet.
"""


def _dit_block(
    architecture: Architecture, dtype: mx.Dtype, size: tuple[int, int, int] | None = None
) -> Callable[[], np.ndarray]:
    size = size or TOKENS
    model = random_transformer(architecture, dtype)
    text = mx.random.normal((1, PROMPT_TOKENS, architecture.caption_channels), key=mx.random.key(0)).astype(dtype)
    shape = 1, architecture.latent_channels, *size
    tokens = to_tokens(np.random.default_rng(1).standard_normal(shape, np.float32)).astype(dtype)
    coordinates = pixel_coordinates(*size, causal=model.config.causal_temporal_positioning)
    conditioning = model.prepare(text, None, coordinates, 25.0)
    return lambda: _array(model(tokens, mx.array([[TIMESTEP]]), conditioning, None))


def _vae_tile(architecture: Architecture, dtype: mx.Dtype) -> Callable[[], np.ndarray]:
    model = random_vae(architecture, dtype)
    latents = np.random.default_rng(2).standard_normal((1, architecture.latent_channels, *TILE), np.float32)
    plan = DecodePlan(10**9)
    return lambda: np.concatenate(list(model.decode_chunks(mx.array(latents), 0.05, [plan], _float32)))


def _text_block(architecture: Architecture, dtype: mx.Dtype) -> Callable[[], np.ndarray]:
    model = random_text_encoder(architecture, dtype)
    ids = mx.arange(PROMPT_TOKENS)[None] % architecture.vocabulary
    return lambda: _array(model(ids, mx.ones(ids.shape, mx.int32)))


def _float32(result: mx.array) -> mx.array:
    return result.astype(mx.float32)


def _array(result: mx.array) -> np.ndarray:
    return np.array(_float32(result))


def _shrunk(architecture: Architecture) -> Architecture:
    """Return the sizes with one block each."""
    return dataclasses.replace(architecture, layers=1, text_layers=1)


COMPARED = Parts(
    make={"transformer block": _dit_block, "VAE tile": _vae_tile, "text encoder block": _text_block},
    bounds=BOUNDS,
    shrink=_shrunk,
    whole=frozenset({"transformer block"}),
)
