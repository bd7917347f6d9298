"""Store weights in fewer bits: MLX's affine quantization, and the fp8 of the official `-fp8` files.

Quantized are the matrices of the blocks, which are nearly all of the bytes: a network's attribute `matrices`, and its
row in the family, say which. Norms, tables, embeddings and the layers before and after the blocks keep their precision.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from ltx_models.errors import CheckpointError
from ltx_models.layers.fp8 import SCALE, is_fp8
from ltx_models.layers.linear import linear

__all__ = [
    "BITS",
    "Fp8Linear",
    "Quantization",
    "keep_as_stored",
    "quantize_layers",
    "quantize_weight",
]

BITS = (8, 4)
GROUP_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """Affine quantization: each `group_size` weights of a row share a scale and a bias.

    Attributes:
        bits: 8 or 4.
        layers: A regular expression that matches the full names of the linear layers to quantize.
        group_size: The number of weights that share a scale.
    """

    bits: int
    layers: str
    group_size: int = GROUP_SIZE

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise CheckpointError(f"{self.bits} bits are not supported; {' and '.join(map(str, BITS))} are")


class Fp8Linear(nn.Module):
    """A linear layer that keeps its weight in float8_e4m3fn, with or without scales of its rows.

    The weight is widened to the input's precision at each use. That moves three bytes for each weight, where the
    product does two operations for each weight and token: little, with thousands of tokens.
    """

    def __init__(self, input_dims: int, output_dims: int, bias: bool, scaled: bool = False) -> None:
        super().__init__()
        self.weight = mx.zeros((output_dims, input_dims), mx.uint8)
        if scaled:
            self.weight_scale = mx.ones((output_dims, 1))
        if bias:
            self.bias = mx.zeros((output_dims,))

    def __call__(self, x: mx.array) -> mx.array:
        """Return the layer's output: (…, input_dims) → (…, output_dims)."""
        return linear(self, x)


class QuantizedLinear(nn.QuantizedLinear):
    """MLX's quantized layer, but multiplying in the way that is fastest on the machine (see `linear`)."""

    def __call__(self, x: mx.array) -> mx.array:
        """Return the layer's output: (…, input_dims) → (…, output_dims)."""
        return linear(self, x)


def quantize_weight(weight: mx.array, quantization: Quantization) -> dict[str, mx.array]:
    """Return the parameters that replace a linear layer's weight."""
    packed, scales, biases = mx.quantize(weight, quantization.group_size, quantization.bits)
    return {"weight": packed, "scales": scales, "biases": biases}


def quantize_layers(model: nn.Module, quantization: Quantization) -> set[str]:
    """Replace layers by quantized ones, ready to be loaded, and return their names.

    Layers that are quantized already, and those whose rows are not a multiple of the group size, stay unchanged.
    """
    names = {
        name
        for name, layer in _layers(model)
        if re.fullmatch(quantization.layers, name)
        and isinstance(layer, nn.Linear | Fp8Linear)
        and layer.weight.shape[1] % quantization.group_size == 0
    }
    layers = dict(_layers(model))
    for name in names:
        _replace(model, name, _quantized(layers[name], quantization.group_size, quantization.bits))
    return names


def keep_as_stored(model: nn.Module, weights: dict[str, mx.array], source: Path) -> None:
    """Replace layers of the blocks by layers of the precision in which `weights` has them: fp8, or MLX's quantization.

    Args:
        model: The network; the regular expression `matrices` of its class matches the names of those layers.
        weights: Its tensors.
        source: The file that errors name.

    Raises:
        CheckpointError: A weight is quantized in a way that MLX cannot read.
    """
    matrices = getattr(type(model), "matrices", "")
    for name, layer in _layers(model):
        if not matrices or not re.fullmatch(matrices, name):
            continue
        weight, scales = weights.get(f"{name}.weight"), weights.get(f"{name}.scales")
        if not isinstance(layer, nn.Linear) or weight is None:
            continue
        rows, columns = layer.weight.shape
        if is_fp8(weight):
            _replace(model, name, Fp8Linear(columns, rows, "bias" in layer, f"{name}.{SCALE}" in weights))
        elif scales is not None and weight.dtype == mx.uint32 and scales.ndim == weight.ndim == 2:
            group_size, bits = columns // max(scales.shape[1], 1), weight.shape[1] * 32 // columns
            try:
                _replace(model, name, _quantized(layer, group_size, bits))
            except ValueError as error:
                raise CheckpointError(
                    f"{source} holds {name} quantized to {bits} bits in groups of {group_size}, which MLX cannot read"
                ) from error


def _layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, layer) for name, layer in model.named_modules() if name]


def _quantized(layer: nn.Module, group_size: int, bits: int) -> QuantizedLinear:
    rows, columns = layer.weight.shape
    return QuantizedLinear(columns, rows, "bias" in layer, group_size, bits)


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    changes: Any = tree_unflatten([(name, layer)])
    model.update_modules(changes)
