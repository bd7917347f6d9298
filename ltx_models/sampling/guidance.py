"""Combine the predictions of one step: pure functions of velocities (B, N, C), float32.

Where predictions share a batch, its order is: unconditional, conditional, perturbed.
"""

from __future__ import annotations

import mlx.core as mx

from ltx_models.request import Guidance

__all__ = ["classifier_free_guidance", "combine", "project", "rescale", "spatio_temporal_guidance"]

PROJECTION_EPS = 1e-8


def combine(
    guidance: Guidance,
    *,
    unconditional: mx.array | None,
    conditional: mx.array,
    perturbed: mx.array | None,
    cfg_star: bool = False,
) -> mx.array:
    """Return the guided velocity.

    Args:
        guidance: The scales of this step.
        unconditional: The prediction for the negative prompt; None where classifier-free guidance is off.
        conditional: The prediction for the prompt.
        perturbed: The perturbed prediction; None where spatio-temporal guidance is off.
        cfg_star: First project the unconditional prediction (`project`).
    """
    velocity = conditional
    if unconditional is not None:
        if cfg_star:
            unconditional = project(unconditional, conditional)
        velocity = classifier_free_guidance(unconditional, conditional, guidance.scale)
    if perturbed is not None:
        velocity = spatio_temporal_guidance(velocity, conditional, perturbed, guidance.stg_scale)
        if guidance.rescale != 1:
            velocity = rescale(velocity, conditional, guidance.rescale)
    return velocity


def classifier_free_guidance(unconditional: mx.array, conditional: mx.array, scale: float) -> mx.array:
    """Return u + g(c - u) (Ho and Salimans, 2022): scale 1 is the conditional prediction itself."""
    return unconditional + scale * (conditional - unconditional)


def project(unconditional: mx.array, conditional: mx.array) -> mx.array:
    """Return u·⟨c, u⟩ / (‖u‖² + 1e-8), for each sample: CFG-Zero* (Fan et al., 2025) guides away from this."""
    axes = tuple(range(1, conditional.ndim))
    product = (conditional * unconditional).sum(axes, keepdims=True)
    return unconditional * product / ((unconditional**2).sum(axes, keepdims=True) + PROJECTION_EPS)


def spatio_temporal_guidance(velocity: mx.array, conditional: mx.array, perturbed: mx.array, scale: float) -> mx.array:
    """Return v + s(c - p) (Hyung et al., 2024): guide away from a prediction with some of its attention disturbed."""
    return velocity + scale * (conditional - perturbed)


def rescale(velocity: mx.array, conditional: mx.array, amount: float) -> mx.array:
    """Return v·(r·std(c) / std(v) + 1 - r), for each sample (Lin et al., 2023): 0 is v, 1 has the deviation of c."""
    axes = tuple(range(1, conditional.ndim))
    ratio = conditional.std(axes, keepdims=True) / velocity.std(axes, keepdims=True)
    return velocity * (amount * ratio + 1 - amount)
