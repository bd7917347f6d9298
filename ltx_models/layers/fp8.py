"""Read weights that are stored in fp8 or in integers, and their scales, which have several names in files.

A scale is one number for a matrix or one for each of its rows: weight = stored value x scale. Here its name is
`weight_scale`, next to its layer's `weight`, and it is float32 of the shape (rows, 1), or (1,) where the weight is not
a matrix.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import mlx.core as mx

from ltx_models.errors import CheckpointError
from ltx_models.layers.finite import all_finite

__all__ = ["SCALE", "fold_scales", "is_fp8", "name_scales", "stored_finite", "widened"]

Weights = dict[str, mx.array]
SCALE = "weight_scale"
SCALE_NAMES = re.compile(r"(.+)\.(weight_scale|scale_weight)")
"""Lightricks' and ComfyUI's names; newer files of both use the first."""
NOT_OF_THE_MODEL = re.compile(r"(.+\.)?(scaled_fp8|comfy_quant|input_scale|scale_input)")
"""Other tensors of such files, which are left out: format marks, and ranges of activations for multiplication in fp8.
"""


def is_fp8(value: mx.array) -> bool:
    """Return whether a tensor was read from an F8_E4M3 one: MLX has no such type, and returns its bytes as uint8."""
    return value.dtype == mx.uint8


def widened(value: mx.array, dtype: mx.Dtype) -> mx.array:
    """Return the numbers that a tensor's stored values represent, before their scale is applied."""
    return mx.from_fp8(value, dtype) if is_fp8(value) else value.astype(dtype)


def stored_finite(value: mx.array) -> mx.array:
    """Return a scalar array, not evaluated yet, that is True if all stored numbers of a tensor are finite."""
    if is_fp8(value):
        return mx.all((value & 0x7F) != 0x7F)
    return all_finite(value) if mx.issubdtype(value.dtype, mx.floating) else mx.array(True)


def name_scales(weights: Weights, source: Path) -> Weights:
    """Return the tensors, with scales renamed and reshaped to the one form used here.

    Tensors that no model uses are left out.

    Raises:
        CheckpointError: A scale has neither one number nor one for each row, or a weight has two scales.
    """
    result = {name: value for name, value in weights.items() if not NOT_OF_THE_MODEL.fullmatch(name)}
    for name, match in [(name, SCALE_NAMES.fullmatch(name)) for name in result]:
        weight = result.get(f"{match[1]}.weight") if match else None
        if match and weight is not None:
            if name != f"{match[1]}.{SCALE}" and f"{match[1]}.{SCALE}" in result:
                raise CheckpointError(f"{source} has two scales for {match[1]}; take a file that has one")
            result[f"{match[1]}.{SCALE}"] = _in_rows(result.pop(name), weight, name, source)
    return result


def _in_rows(scale: mx.array, weight: mx.array, name: str, source: Path) -> mx.array:
    rows = weight.shape[0] if weight.ndim == 2 else 1
    if scale.size != 1 and scale.shape not in ((rows,), (rows, 1)):
        raise CheckpointError(
            f"{source} has {name} of the shape {tuple(scale.shape)} for a weight of {tuple(weight.shape)}; there must"
            " be one scale for a matrix or one for each of its rows: use a file with such scales, or one in bfloat16"
        )
    scale = scale.astype(mx.float32)
    return mx.broadcast_to(scale.reshape(-1, 1), (rows, 1)) if weight.ndim == 2 else scale.reshape(1)


def fold_scales(weights: Weights, layers: Collection[str] | None = None, *, but: Collection[str] = ()) -> None:
    """Multiply weights by their scales, in float32 and when they are first used.

    Args:
        weights: The tensors by name; changed in place.
        layers: The layers whose weights are multiplied; None for all.
        but: Layers that are left as they are.
    """
    for name in [name for name in weights if name.endswith(f".{SCALE}")]:
        layer = name.removesuffix(f".{SCALE}")
        if f"{layer}.weight" in weights and layer not in but and (layers is None or layer in layers):
            weights[f"{layer}.weight"] = widened(weights[f"{layer}.weight"], mx.float32) * weights.pop(name)
