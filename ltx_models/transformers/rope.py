"""Compute positions of tokens, and their rotary embedding (Su et al., 2021) in three dimensions."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np

from ltx_models.transformers.config import TransformerConfig

__all__ = ["pixel_coordinates", "rope_tables"]

VAE_STRIDES = (8, 32, 32)
"""Frames, rows and columns of pixels that one latent token covers."""


def pixel_coordinates(frames: int, height: int, width: int, *, causal: bool) -> np.ndarray:
    """Return the coordinates of latent tokens: (1, 3, N) of frame, y and x in pixels, each the top-left corner.

    Args:
        frames: The number of latent frames.
        height: The number of latent rows.
        width: The number of latent columns.
        causal: The first latent frame covers one frame, not eight, so all others begin seven frames earlier.
    """
    grid = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    coordinates = np.stack(grid).reshape(3, -1) * np.array(VAE_STRIDES)[:, None]
    if causal:
        coordinates[0] = np.maximum(0, coordinates[0] + 1 - VAE_STRIDES[0])
    return coordinates[None]


def rope_tables(coordinates: np.ndarray, frame_rate: float, config: TransformerConfig) -> tuple[mx.array, mx.array]:
    """Return cosines and sines (B, N, inner_dim / 2) of the rotary embedding.

    Each position, as a fraction of its maximum (20 seconds, 2048 rows, 2048 columns) mapped to [-1, 1], is multiplied
    by π/2 · θ^linspace(0, 1, D/6). Pairs are ordered by frequency, each with (t, y, x); the remainder of D is not
    rotated and comes first. The tables are computed on the host in float32: the largest angle is 15,708, where bfloat16
    has no digits after the point.

    Args:
        coordinates: (B, 3, N) in pixels.
        frame_rate: Frames a second.
        config: The transformer's sizes.
    """
    positions = coordinates.astype(np.float32)
    positions[:, 0] *= np.float32(1 / frame_rate)
    fractions = positions / np.array(config.positional_embedding_max_pos, np.float32)[None, :, None]
    exponents = np.linspace(0, 1, config.inner_dim // 6, dtype=np.float32)
    # Only the power is taken in float64: float32 powers differ by an ulp from one machine to the next.
    powers = (config.positional_embedding_theta ** exponents.astype(np.float64)).astype(np.float32)
    frequencies = powers * np.float32(math.pi / 2)
    angles = (fractions * 2 - 1).swapaxes(1, 2)[:, :, None, :] * frequencies[:, None]
    angles = angles.reshape(*angles.shape[:2], -1)
    unrotated = config.inner_dim // 2 - angles.shape[-1]
    # Row by row in memory, or the kernels that read the tables would copy them at every use.
    angles = np.ascontiguousarray(np.pad(angles, ((0, 0), (0, 0), (unrotated, 0))))
    return mx.array(np.cos(angles)), mx.array(np.sin(angles))
