"""Weights that are stored in fp8 or in integers, and their scales, which files have under several names.

A scale is one number for a matrix or one for each of its rows: weight = stored value x scale. Here it is `weight_scale`
next to its layer's `weight`, float32 (rows, 1), or (1,) where the weight is no matrix.
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
"""Lightricks' and ComfyUI's names; the newer files of both have the first."""
NOT_OF_THE_MODEL = re.compile(r"(.+\.)?(scaled_fp8|comfy_quant|input_scale|scale_input)")
"""What such files hold besides: marks, and the ranges of activations, which matter to who multiplies in fp8."""


def is_fp8(value: mx.array) -> bool:
    """Whether a tensor was read from an F8_E4M3 one: MLX has no such type, and hands out its bytes."""
    return value.dtype == mx.uint8


def widened(value: mx.array, dtype: mx.Dtype) -> mx.array:
    """The numbers that a tensor's stored values stand for, before their scale."""
    return mx.from_fp8(value, dtype) if is_fp8(value) else value.astype(dtype)


def stored_finite(value: mx.array) -> mx.array:
    """Whether all numbers of a tensor are finite, as it is stored, to be evaluated with it."""
    if is_fp8(value):
        return mx.all((value & 0x7F) != 0x7F)
    return all_finite(value) if mx.issubdtype(value.dtype, mx.floating) else mx.array(True)


def name_scales(weights: Weights, source: Path) -> Weights:
    """The same tensors, with scales by the one name and shape that they have here, and without what no model reads.

    Raises CheckpointError where a scale is neither of a whole matrix nor of its rows, or is not the only one.
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
            f"{source} has {name} of the shape {tuple(scale.shape)} for a weight of {tuple(weight.shape)}; one scale"
            " for a matrix or one for each of its rows is read: take a file that has such, or one in bfloat16"
        )
    scale = scale.astype(mx.float32)
    return mx.broadcast_to(scale.reshape(-1, 1), (rows, 1)) if weight.ndim == 2 else scale.reshape(1)


def fold_scales(weights: Weights, layers: Collection[str] | None = None, *, but: Collection[str] = ()) -> None:
    """Multiply weights by their scales, in float32 and when they are first used; those of `layers`, by default of all,
    without those of `but`.
    """
    for name in [name for name in weights if name.endswith(f".{SCALE}")]:
        layer = name.removesuffix(f".{SCALE}")
        if f"{layer}.weight" in weights and layer not in but and (layers is None or layer in layers):
            weights[f"{layer}.weight"] = widened(weights[f"{layer}.weight"], mx.float32) * weights.pop(name)
