"""Load checked tensors into a model, a block at a time, and checked configs into dataclasses."""

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
from ltx_models.layers.fp8 import SCALE, fold_scales, is_fp8, stored_finite, widened
from ltx_models.layers.quantization import Fp8Linear, Quantization, keep_as_stored, quantize_layers, quantize_weight

__all__ = ["build", "check_finite", "check_weights", "load_weights", "parse_config"]

NAMED_IN_ERRORS = 5
LONGEST_SHOWN = 200
"""The most characters of a tensor's name that an error shows."""
BLOCK = re.compile(r"(.*?\.\d+)\.")
"""A name up to its first index: tensors with the same one are loaded, and quantized, together."""


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


C = TypeVar("C", bound=_Dataclass)
M = TypeVar("M", bound=nn.Module)

MOST = 2**20
MOST_LAYERS = 1_000
"""The largest number in a config: many times what any checkpoint has, and still quick to build."""


def load_weights(
    model: nn.Module,
    weights: Weights,
    *,
    source: Path,
    dtype: mx.Dtype,
    float32: str = "",
    quantization: Quantization | None = None,
) -> None:
    """Put `weights` into `model`, cast to `dtype`, and evaluate them.

    The names must be the model's own, neither more nor fewer. 5-D tensors are convolutions, in PyTorch's order (O, I,
    D, H, W) or in MLX's (O, D, H, W, I). Linear layers that the file stores in fp8, or quantized by MLX, stay so; there
    may be scales (`ltx_models.layers.fp8`).

    Args:
        model: The model.
        weights: The tensors by name; empty afterwards.
        source: The file that errors name.
        dtype: The type of the weights.
        float32: The prefix of names of tensors that stay in float32; "" for none.
        quantization: What to quantize, and how. It happens block by block, each being dropped once it is done, so that
            at most one block is in memory at full precision. None quantizes nothing.

    Raises:
        CheckpointError: Tensors are missing, unexpected, of a wrong shape or not finite; the first five are named.
    """
    check_weights(model, weights, source)
    own = dict(_parameters(model))
    quantized = quantize_layers(model, quantization) if quantization else set()
    fold_scales(weights, quantized)
    ready: list[tuple[str, mx.array]] = []
    for names in _blocks(weights):
        block: list[tuple[str, mx.array]] = []
        finite: dict[str, mx.array] = {}
        for name in names:
            value = weights.pop(name)
            layer, _, kind = name.rpartition(".")
            if quantization and layer in quantized and kind == "weight":
                value = widened(value, dtype)
                finite[name] = stored_finite(value)
                block += [(f"{layer}.{part}", array) for part, array in quantize_weight(value, quantization).items()]
                continue
            if value.ndim == 5 and value.shape != own[name].shape:
                value = mx.contiguous(value.transpose(0, 2, 3, 4, 1))
            if mx.issubdtype(own[name].dtype, mx.floating):
                precise = kind == SCALE or (float32 and name.startswith(float32))
                value = widened(value, mx.float32 if precise else dtype)
            finite[name] = stored_finite(value)
            block.append((name, value))
        del value  # the last reference to what was read, so that evaluating frees it
        mx.eval([array for _, array in block], list(finite.values()))
        check_finite(finite, source)
        ready += block
    model.load_weights(ready)
    mx.eval(model.parameters())


def check_finite(answers: Mapping[str, mx.array], source: Path) -> None:
    """Raise CheckpointError where one of the answers of `stored_finite` is False."""
    bad = [name for name, answer in answers.items() if not answer.item()]
    if bad:
        raise CheckpointError(
            f"{source} is damaged: {_named(bad)} NaN or infinite values; download it again, or take a file in another"
            " precision"
        )


def _named(names: list[str]) -> str:
    more = f", … ({len(names)} in all)" if len(names) > NAMED_IN_ERRORS else ""
    return f"{', '.join(names[:NAMED_IN_ERRORS])}{more} {'have' if len(names) > 1 else 'has'}"


def _parameters(model: nn.Module) -> list[tuple[str, mx.array]]:
    parameters: Any = tree_flatten(model.parameters())
    return parameters


def _blocks(weights: Weights) -> Iterator[list[str]]:
    """Yield the names in groups: one for each block of the model, and one for all that is outside of blocks."""
    groups: dict[str, list[str]] = {}
    for name in sorted(weights):
        match = BLOCK.match(name)
        groups.setdefault(match[1] if match else "", []).append(name)
    yield from groups.values()


def check_weights(model: nn.Module, weights: Weights, source: Path) -> None:
    """Compare the names, shapes and types of `weights` with the model's parameters; nothing is read or computed.

    Layers of the model are replaced by ones that store their weights as the file does; scales that these have no place
    for are multiplied into the weights when they are used.

    Raises:
        CheckpointError: Tensors are missing, unexpected, or of a wrong shape or type.
    """
    keep_as_stored(model, weights, source)
    fold_scales(weights, but={name for name, layer in model.named_modules() if isinstance(layer, Fp8Linear)})
    own = dict(_parameters(model))
    expected = {name: tuple(value.shape) for name, value in own.items()}
    _refuse(source, "lacks", "the model that its config describes has them", sorted(expected.keys() - weights.keys()))
    unexpected = sorted(weights.keys() - expected.keys())
    _refuse(source, "holds unexpected", "the config names no such layers", unexpected)
    wrong = [
        f"{name} {tuple(weights[name].shape)} instead of {_file_shape(shape)}"
        for name, shape in sorted(expected.items())
        if tuple(weights[name].shape) not in (shape, _file_shape(shape))
    ]
    _refuse(source, "has the wrong shape in", "the shapes are those that the config gives", wrong)
    odd = [
        f"{name} ({str(value.dtype).rpartition('.')[2]})"
        for name, value in sorted(weights.items())
        if mx.issubdtype(own[name].dtype, mx.floating)
        and not (mx.issubdtype(value.dtype, mx.floating) or is_fp8(value))
    ]
    _refuse(
        source, "has the wrong type in", "floating-point numbers are expected, or integers and their weight_scale", odd
    )


def _file_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], shape[4], *shape[1:4]) if len(shape) == 5 else shape


def _refuse(source: Path, what: str, why: str, names: list[str]) -> None:
    if names:
        more = f", … ({len(names)} in all)" if len(names) > NAMED_IN_ERRORS else ""
        plural = "tensors" if len(names) > 1 else "tensor"
        shown = ", ".join(name[:LONGEST_SHOWN] for name in names[:NAMED_IN_ERRORS])
        raise CheckpointError(
            f"{source} {what} {plural} {shown}{more}: {why};"
            " expected is LTX-Video 0.9.x, as an official single file, a diffusers folder, or what ltx models convert"
            " wrote"
        )


def parse_config(kind: type[C], section: Mapping[str, Any], supported: Mapping[str, Any], *, source: str) -> C:
    """Return a config dataclass from the fields that it shares with `section`.

    Args:
        kind: The dataclass.
        section: The section of a checkpoint's config.
        supported: The only supported value of some keys, where they are present.
        source: The config that errors name.

    Raises:
        CheckpointError: A value is not supported, of a wrong type, missing, or a size that no model can have.
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
    """Raise CheckpointError unless a model can be built with a value."""
    if isinstance(value, tuple):
        for item in value:
            _check_size(name, item, source)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        least = 1 if isinstance(value, int) else 0
        most = MOST_LAYERS if name == "num_layers" else MOST
        if not least <= value <= most:
            raise CheckpointError(f"{source} has {name} = {reprlib.repr(value)}; {least} to {most:,} are possible")


def build(kind: Callable[[], M], source: str) -> M:
    """Return the model that a config describes, without its weights. Raise CheckpointError if that is impossible."""
    try:
        return kind()
    except (ValueError, TypeError, ArithmeticError, RuntimeError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise CheckpointError(f"{source} does not describe a model that can be built ({reason})") from error
