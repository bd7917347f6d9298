"""The timestep embedding that the transformer and the VAE decoder share."""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn

__all__ = ["TimestepEmbedder", "timestep_sinusoid"]

SINUSOID_DIM = 256
MAX_PERIOD = 10_000


def timestep_sinusoid(timestep: mx.array) -> mx.array:
    """Return sinusoids of `timestep` (any shape, already scaled), float32, with a last axis of 256: cosines first.

    Frequencies are 10000^(-i/128), i = 0…127 (the DDPM embedding with `flip_sin_to_cos` and no shift).
    """
    half = SINUSOID_DIM // 2
    frequencies = mx.exp(-math.log(MAX_PERIOD) / half * mx.arange(half, dtype=mx.float32))
    angles = timestep.astype(mx.float32)[..., None] * frequencies
    return mx.concatenate([mx.cos(angles), mx.sin(angles)], axis=-1)


class _TwoLayers(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(SINUSOID_DIM, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def __call__(self, x: mx.array) -> mx.array:
        return self.linear_2(nn.silu(self.linear_1(x)))


class TimestepEmbedder(nn.Module):
    """An embedding of the timestep: its sinusoid through two linear layers."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.timestep_embedder = _TwoLayers(dim)

    def __call__(self, timestep: mx.array) -> mx.array:
        """Return the embedding of a scaled timestep of any shape, with a last axis of `dim`, in the weights' dtype."""
        dtype = self.timestep_embedder.linear_1.weight.dtype
        return self.timestep_embedder(timestep_sinusoid(timestep).astype(dtype))
