"""Latents: their shape, the noise that they begin as, and their order as the transformer's tokens.

On the host they are NumPy float32 (1, C, F, H, W), normalized.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ltx_models.families.ltxv import FRAME_STRIDE, SIZE_STRIDE
from ltx_models.request import GenerationRequest

__all__ = [
    "CONDITIONING_NOISE",
    "DECODE_NOISE",
    "IMAGE_NOISE",
    "INITIAL_NOISE",
    "INJECTED_NOISE",
    "STOCHASTIC_NOISE",
    "LatentShape",
    "draw_noise",
    "from_tokens",
    "latent_shape",
    "to_tokens",
]

LatentShape = tuple[int, int, int, int, int]

INITIAL_NOISE, DECODE_NOISE, CONDITIONING_NOISE, IMAGE_NOISE, STOCHASTIC_NOISE, INJECTED_NOISE = range(6)
"""The random streams of a seed, each independent, so that drawing from one never changes another. All but the first two
are drawn from more than once, by index: the item, the step, or the layer.
"""


def latent_shape(request: GenerationRequest, channels: int) -> LatentShape:
    """Return the latent shape (1, C, F, H, W) of a resolved request."""
    assert request.width
    assert request.height
    assert request.num_frames
    frames = (request.num_frames - 1) // FRAME_STRIDE + 1
    return 1, channels, frames, request.height // SIZE_STRIDE, request.width // SIZE_STRIDE


def draw_noise(seed: int, stream: int, shape: tuple[int, ...], *index: int) -> np.ndarray:
    """Return normal noise of one of a seed's streams, drawn on the host: the same on every machine."""
    return np.random.Generator(np.random.PCG64([stream, seed, *index])).standard_normal(shape, dtype=np.float32)


def to_tokens(latents: np.ndarray) -> mx.array:
    """Return latents (1, C, F, H, W) as tokens (1, F·H·W, C)."""
    return mx.array(latents, mx.float32).flatten(2).swapaxes(1, 2)


def from_tokens(tokens: mx.array, shape: LatentShape) -> np.ndarray:
    """Return tokens (1, F·H·W, C) as latents (1, C, F, H, W)."""
    return np.array(tokens.swapaxes(1, 2).reshape(shape))
