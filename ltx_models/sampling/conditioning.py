"""Turn pictures and clips into latents that the render keeps, or into extra tokens that the render attends to.

What belongs at the beginning replaces the noise there. A later picture, and the first two latent frames of a later
clip, become extra tokens at that frame's coordinates, because a latent of one frame looks unlike those of eight; they
are removed at the end. Every token has a strength: it is taken to be no noisier than 1 - strength.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ltx_models.errors import InvalidRequest
from ltx_models.families.ltxv import FRAME_STRIDE
from ltx_models.request import ConditioningItem
from ltx_models.sampling.latents import to_tokens
from ltx_models.transformers.ltxv import pixel_coordinates

__all__ = ["Canvas", "place"]

PREFIX = 2
"""Latent frames of a later clip that become extra tokens: the first covers one frame, and the second depends on it."""


@dataclass(frozen=True, eq=False)
class Canvas:
    """The state in which a render begins.

    Attributes:
        tokens: (1, extra + F·H·W, C) float32, the extra ones first.
        coordinates: (1, 3, extra + F·H·W), in pixels.
        strengths: (1, extra + F·H·W), 0 for free tokens; None where all are free.
        extra: The number of extra tokens.
    """

    tokens: mx.array
    coordinates: np.ndarray
    strengths: mx.array | None = None
    extra: int = 0


def place(
    latents: np.ndarray,
    items: Sequence[tuple[ConditioningItem, np.ndarray]],
    draw: Callable[[int, tuple[int, ...]], np.ndarray],
    *,
    causal: bool,
) -> Canvas:
    """Return the canvas of initial latents and of pictures and clips, of which later ones cover earlier ones.

    Args:
        latents: The initial latents (1, C, F, H, W), usually noise.
        items: Resolved items with their latents.
        draw: Returns fresh noise, given an item's index among those that have extra tokens, and a shape.
        causal: As in `pixel_coordinates`.

    Raises:
        InvalidRequest: An item's latents do not fit.
    """
    coordinates = pixel_coordinates(*latents.shape[2:], causal=causal)
    if not items:
        return Canvas(to_tokens(latents), coordinates)
    latents = latents.copy()
    strengths = np.zeros((1, 1, *latents.shape[2:]), np.float32)
    extra: list[tuple[mx.array, mx.array, np.ndarray]] = []
    for item, encoded in items:
        _check_encoded(item, encoded, latents)
        start, count = item.frame // FRAME_STRIDE, encoded.shape[2]
        kept = 0 if item.frame == 0 else PREFIX if count > 1 else count
        region = np.s_[:, :, start + kept : start + count]
        latents[region] = lerp(latents[region], encoded[:, :, kept:], item.strength)
        strengths[region] = item.strength
        if kept:
            beside = encoded[:, :, :kept]
            beside = lerp(draw(len(extra), beside.shape), beside, item.strength)
            where = pixel_coordinates(*beside.shape[2:], causal=causal)
            where[:, 0] += item.frame
            extra.append((to_tokens(beside), mx.full((1, where.shape[2]), item.strength), where))
    own = (to_tokens(latents), to_tokens(strengths)[..., 0], coordinates)
    parts = [*extra, own]
    joined = mx.concatenate([tokens for tokens, _, _ in parts], axis=1)
    return Canvas(
        tokens=joined,
        coordinates=np.concatenate([where for _, _, where in parts], axis=2),
        strengths=mx.concatenate([weights for _, weights, _ in parts], axis=1),
        extra=joined.shape[1] - own[0].shape[1],
    )


def lerp(a: np.ndarray, b: np.ndarray, weight: float) -> np.ndarray:
    """Return a + weight·(b - a), and exactly b at 1."""
    return a + weight * (b - a) if weight < 0.5 else b - (1 - weight) * (b - a)


def _check_encoded(item: ConditioningItem, encoded: np.ndarray, latents: np.ndarray) -> None:
    frames = encoded.shape[2] if encoded.ndim == 5 else 0
    fits = item.frame // FRAME_STRIDE + frames <= latents.shape[2] or frames == 1
    if not frames or not fits or encoded.shape != (*latents.shape[:2], frames, *latents.shape[3:]):
        raise InvalidRequest(
            f"the latents of the {item.kind} at frame {item.frame} have the shape {tuple(encoded.shape)}, which does"
            f" not fit into {tuple(latents.shape)}"
        )
