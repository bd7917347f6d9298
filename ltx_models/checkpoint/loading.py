"""Checked tensors into a model, a block at a time; and checked configs into dataclasses."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from pydantic import TypeAdapter, ValidationError

from ltx_models.checkpoint.files import Weights
from ltx_models.errors import CheckpointError
from ltx_models.quantization import Quantization, from_fp8, hold_as_stored, is_fp8, quantize_layers, quantize_weight

__all__ = ["build", "load_weights", "parse_config"]

NAMED_IN_ERRORS = 5
BLOCK = re.compile(r"(.*?\.\d+)\.")
"""A name up to its first index: what is loaded, and quantized, together."""

FP8_HELP = (
    "an fp8 file is read where its weights are plain casts without scales, as the official ones of 0.9.8 are; the first"
    " fp8 files of 13B 0.9.7 were probably rotated besides, and give noise: take the bf16 file"
)


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


C = TypeVar("C", bound=_Dataclass)
M = TypeVar("M", bound=nn.Module)

MOST = 2**20
MOST_LAYERS = 1_000
"""Of a config's numbers: many times what any checkpoint has, and still soon built."""


def load_weights(
    model: nn.Module,
    weights: Weights,
    *,
    source: Path,
    dtype: mx.Dtype,
    float32: str = "",
    quantization: Quantization | None = None,
) -> None:
    """Put `weights` into `model`, cast to `dtype`, and evaluate them. `weights` is empty afterwards.

    The names must be the model's own, neither more nor fewer. 5-D tensors are convolutions, in PyTorch's order (O, I,
    D, H, W) or in MLX's (O, D, H, W, I). Those whose name begins with `float32`, if given, stay in that precision.
    Linear layers that the file holds in fp8, or quantized by MLX, stay so.

    quantization: what to quantize, and how. It happens block by block, each being dropped once it is done, so that
    no more than one block is ever held at full precision.

    Raises CheckpointError that names the first five tensors that are missing, unexpected or of a wrong shape.
    """
    hold_as_stored(model, weights, source)
    _check(model, weights, source)
    own = dict(_parameters(model))
    quantized = quantize_layers(model, quantization) if quantization else set()
    ready: list[tuple[str, mx.array]] = []
    for names in _blocks(weights):
        block: list[tuple[str, mx.array]] = []
        for name in names:
            value = weights.pop(name)
            layer, _, kind = name.rpartition(".")
            if quantization and layer in quantized and kind == "weight":
                value = from_fp8(value, dtype) if is_fp8(value) else value.astype(dtype)
                block += [(f"{layer}.{part}", array) for part, array in quantize_weight(value, quantization).items()]
                continue
            if value.ndim == 5 and value.shape != own[name].shape:
                value = mx.contiguous(value.transpose(0, 2, 3, 4, 1))
            if mx.issubdtype(own[name].dtype, mx.floating):
                wanted = mx.float32 if float32 and name.startswith(float32) else dtype
                value = from_fp8(value, wanted) if is_fp8(value) else value.astype(wanted)
            block.append((name, value))
        del value  # the last reference to what was read, so that evaluating frees it
        mx.eval([array for _, array in block])
        ready += block
    model.load_weights(ready)
    mx.eval(model.parameters())


def _parameters(model: nn.Module) -> list[tuple[str, mx.array]]:
    parameters: Any = tree_flatten(model.parameters())
    return parameters


def _blocks(weights: Weights) -> Iterator[list[str]]:
    """The names in groups, a block of the model each, and one of all that is outside of blocks."""
    groups: dict[str, list[str]] = {}
    for name in sorted(weights):
        match = BLOCK.match(name)
        groups.setdefault(match[1] if match else "", []).append(name)
    yield from groups.values()


def _check(model: nn.Module, weights: Weights, source: Path) -> None:
    own = dict(_parameters(model))
    expected = {name: tuple(value.shape) for name, value in own.items()}
    _refuse(source, "lacks", "the model needs them", sorted(expected.keys() - weights.keys()))
    unexpected = sorted(weights.keys() - expected.keys())
    scaled = f"; {FP8_HELP}" if any("scale" in name for name in unexpected) else ""
    _refuse(source, "holds unexpected", f"the config names no such layers{scaled}", unexpected)
    wrong = [
        f"{name} {tuple(weights[name].shape)} instead of {_file_shape(shape)}"
        for name, shape in sorted(expected.items())
        if tuple(weights[name].shape) not in (shape, _file_shape(shape))
    ]
    _refuse(source, "has the wrong shape in", "the shapes are those that the config gives", wrong)
    odd = [
        f"{name} ({value.dtype})"
        for name, value in sorted(weights.items())
        if mx.issubdtype(own[name].dtype, mx.floating)
        and not (mx.issubdtype(value.dtype, mx.floating) or is_fp8(value))
    ]
    _refuse(source, "has the wrong type in", "floating-point numbers are expected", odd)


def _file_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], shape[4], *shape[1:4]) if len(shape) == 5 else shape


def _refuse(source: Path, what: str, why: str, names: list[str]) -> None:
    if names:
        more = f", … ({len(names)} in all)" if len(names) > NAMED_IN_ERRORS else ""
        plural = "tensors" if len(names) > 1 else "tensor"
        raise CheckpointError(
            f"{source} {what} {plural} {', '.join(names[:NAMED_IN_ERRORS])}{more}: {why};"
            " expected is LTX-Video 0.9.x, as an official single file, a diffusers folder, or what ltx models convert"
            " wrote"
        )


def parse_config(kind: type[C], section: Mapping[str, Any], supported: Mapping[str, Any], *, source: str) -> C:
    """A config dataclass from the fields that it shares with `section`.

    `supported` says the only value that each key may have, where it is present: anything else is another
    architecture. Fields must have their type, and sizes that a model can have. Raises CheckpointError.
    """
    for key, value in supported.items():
        if section.get(key, value) != value:
            raise CheckpointError(f"{source} has {key} = {reprlib.repr(section[key])}; only {value!r} is supported")
    fields = dataclasses.fields(kind)
    values = {field.name: section[field.name] for field in fields if field.name in section}
    missing = [
        field.name
        for field in fields
        if field.name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise CheckpointError(f"{source} does not say {', '.join(missing)}")
    try:
        config = _adapter(kind).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        detail = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(map(str, detail["loc"]))
        raise CheckpointError(
            f"{source} has {place[:50]} = {reprlib.repr(detail['input'])}: {detail['msg'][:200]}"
        ) from error
    except RecursionError as error:
        raise CheckpointError(f"{source} is nested too deeply") from error
    for field in fields:
        _check_size(field.name, getattr(config, field.name), source)
    return config


@functools.cache
def _adapter(kind: type[C]) -> TypeAdapter[C]:
    return TypeAdapter(kind)


def _check_size(name: str, value: Any, source: str) -> None:
    """What a model is built of must be such that it can be built. Raises CheckpointError."""
    if isinstance(value, tuple):
        for item in value:
            _check_size(name, item, source)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        least = 1 if isinstance(value, int) else 0
        most = MOST_LAYERS if name == "num_layers" else MOST
        if not least <= value <= most:
            raise CheckpointError(f"{source} has {name} = {reprlib.repr(value)}; {least} to {most:,} are possible")


def build(kind: Callable[[], M], source: str) -> M:
    """The model that a config describes, its weights not yet there. Raises CheckpointError where no model can be so."""
    try:
        return kind()
    except (ValueError, TypeError, ArithmeticError, RuntimeError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise CheckpointError(f"{source} does not describe a model that can be built ({reason})") from error
