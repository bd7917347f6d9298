"""Where tokens lie, and the rotary embedding of that (Su et al., 2021) in three dimensions."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np

from ltx_models.transformers.config import TransformerConfig

__all__ = ["pixel_coordinates", "rope_tables"]

VAE_STRIDES = (8, 32, 32)
"""Frames, rows and columns of pixels of one latent token."""


def pixel_coordinates(frames: int, height: int, width: int, *, causal: bool) -> np.ndarray:
    """Where latent tokens lie: (1, 3, N) of frame, y and x in pixels, for a latent of that size.

    A token's place is its top-left corner. `causal`: the first latent frame holds one frame, not eight, so all
    others begin seven earlier.
    """
    grid = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    coordinates = np.stack(grid).reshape(3, -1) * np.array(VAE_STRIDES)[:, None]
    if causal:
        coordinates[0] = np.maximum(0, coordinates[0] + 1 - VAE_STRIDES[0])
    return coordinates[None]


def rope_tables(coordinates: np.ndarray, frame_rate: float, config: TransformerConfig) -> tuple[mx.array, mx.array]:
    """Cosines and sines (B, N, inner_dim / 2) of the rotary embedding, for coordinates (B, 3, N) in pixels.

    Each position, as a fraction of its maximum (20 seconds, 2048 rows, 2048 columns) mapped to [-1, 1], is multiplied
    by π/2 · θ^linspace(0, 1, D/6). Pairs are laid out frequency by frequency, each with (t, y, x); what is left of D
    is not rotated and comes first. Made on the host in float32: the top angle is 15,708, where bfloat16 has no
    digits after the point.
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
