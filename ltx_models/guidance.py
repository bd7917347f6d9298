"""How the predictions of one step are combined. Pure functions of velocities.

Where predictions share a batch, its order is: unconditional, conditional.
"""

from __future__ import annotations

import mlx.core as mx

__all__ = ["classifier_free_guidance"]


def classifier_free_guidance(unconditional: mx.array, conditional: mx.array, scale: float) -> mx.array:
    """u + g(c - u) (Ho and Salimans, 2022): scale 1 is the conditional prediction itself."""
    return unconditional + scale * (conditional - unconditional)
