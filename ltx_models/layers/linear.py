"""Apply linear layers as functions of their parameters, in whatever precision these are stored."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ltx_models.kernels import backend

__all__ = ["fused", "linear", "product"]

FEW_ROWS = 32
"""Below so many rows a product is limited by reading its weights, and a quantized one reads fewer bytes."""


def linear(layer: Mapping[str, Any], x: mx.array) -> mx.array:
    """Return the layer's output: (…, inputs) → (…, outputs).

    Args:
        layer: An nn.Linear, nn.QuantizedLinear or Fp8Linear, or its parameters by name.
        x: The input.
    """
    bias = layer.get("bias")
    if _multiplies_quantized(layer, x):
        y = product(layer, x)
        return y if bias is None else y + bias
    weight = _widened(layer, x).T
    return x @ weight if bias is None else mx.addmm(bias, x, weight)


def product(layer: Mapping[str, Any], x: mx.array) -> mx.array:
    """Return the layer's output without its bias, for callers that add the bias in a later operation."""
    if _multiplies_quantized(layer, x):
        group_size, bits = _grouping(layer, x)
        weight, scales, biases = layer["weight"], layer["scales"], layer["biases"]
        return mx.quantized_matmul(x, weight, scales, biases, transpose=True, group_size=group_size, bits=bits)
    return x @ _widened(layer, x).T


def _multiplies_quantized(layer: Mapping[str, Any], x: mx.array) -> bool:
    """Return whether to multiply by quantized weights directly, rather than by the weights that they represent.

    On CUDA MLX's quantized product takes 2.7 times as long as a plain one (4992 x 2048 x 2048: 0.35 ms to 0.13), so
    there the weights are widened before each use, at three bytes moved for each. On Metal the quantized product is
    fast.
    """
    return "scales" in layer and not (backend() == "cuda" and x.size // x.shape[-1] >= FEW_ROWS)


def _widened(layer: Mapping[str, Any], x: mx.array) -> mx.array:
    """Return the weights (outputs, inputs) in x's precision."""
    weight: mx.array = layer["weight"]
    if "scales" in layer:
        group_size, bits = _grouping(layer, x)
        return mx.dequantize(weight, layer["scales"], layer["biases"], group_size, bits).astype(x.dtype)
    if "weight_scale" in layer:
        return (mx.from_fp8(weight, mx.float32) * layer["weight_scale"]).astype(x.dtype)
    return mx.from_fp8(weight, x.dtype) if weight.dtype == mx.uint8 else weight


def _grouping(layer: Mapping[str, Any], x: mx.array) -> tuple[int, int]:
    """Return how many weights share a scale, and the bits of each."""
    inputs = x.shape[-1]
    return inputs // layer["scales"].shape[1], 32 * layer["weight"].shape[1] // inputs


def fused(layers: Sequence[nn.Module]) -> nn.Module | None:
    """Return one layer with the concatenated outputs of all; None if they do not store their weights alike."""
    first, *others = layers
    kinds = {name: (value.dtype, value.shape[1:]) for name, value in first.items()}
    if any({name: (value.dtype, value.shape[1:]) for name, value in other.items()} != kinds for other in others):
        return None
    result = copy.copy(first)
    for name in kinds:
        result[name] = mx.concatenate([layer[name] for layer in layers])
    return result
