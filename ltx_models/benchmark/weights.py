"""Draw random weights: they take the real ones' time and memory, and no download."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

__all__ = ["random_weights"]


def random_weights(model: nn.Module) -> dict[str, mx.array]:
    """Return random parameters of a network, not evaluated.

    Matrices and convolutions are N(0, 1/fan_in), norms 1, biases and tables small, which keeps activations near unit
    size.
    """
    parameters: Any = tree_flatten(model.parameters())
    weights = {}
    for index, (name, value) in enumerate(parameters):
        if "norm" in name and value.ndim == 1:
            weights[name] = mx.ones(value.shape)
        elif value.ndim == 0:
            weights[name] = value
        else:
            scale = (value.size / value.shape[0]) ** -0.5 if value.ndim in (2, 5) else 0.02
            weights[name] = scale * mx.random.normal(value.shape, key=mx.random.key(index))
    return weights
