"""Reading safetensors: the official single file and the text encoder's folder, checked before anything is used.

The single file holds the transformer under `model.diffusion_model.`, the VAE under `vae.`, and in its metadata the
JSON `config`, whose parts `transformer`, `vae` and `scheduler` decide the architecture.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ltx_models.errors import CheckpointError

__all__ = ["SingleFile", "file_hash", "load_tensors", "load_weights", "parse_config", "read_json"]

TRANSFORMER_PREFIX = "model.diffusion_model."
VAE_PREFIX = "vae."

NAMED_IN_ERRORS = 5
MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors format itself: a longer header is some other file."""

Weights = dict[str, mx.array]


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


C = TypeVar("C", bound=_Dataclass)


class SingleFile:
    """The official checkpoint file: its config at once, its tensors when asked for.

    Raises CheckpointError if it is missing, truncated, not safetensors, or has no usable config.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tensors, metadata = load_tensors(path)
        if "config" not in metadata:
            raise CheckpointError(f"{path} has no 'config' in its metadata, which the official single files have")
        try:
            self.config = json.loads(metadata["config"])
        except ValueError as error:
            raise CheckpointError(f"the config in the metadata of {path} is not JSON: {error}") from error

    def section(self, name: str) -> dict[str, Any]:
        """One part of the config: "transformer", "vae" or "scheduler"."""
        section = self.config.get(name) if isinstance(self.config, dict) else None
        if not isinstance(section, dict):
            raise CheckpointError(f"the config in the metadata of {self.path} has no section {name!r}")
        return section

    def transformer_weights(self) -> Weights:
        """The transformer's tensors, without their prefix."""
        return self._without_prefix(TRANSFORMER_PREFIX)

    def vae_weights(self) -> Weights:
        """The VAE's tensors, without their prefix."""
        return self._without_prefix(VAE_PREFIX)

    def _without_prefix(self, prefix: str) -> Weights:
        return {name.removeprefix(prefix): value for name, value in self._tensors.items() if name.startswith(prefix)}


def load_tensors(path: Path) -> tuple[Weights, dict[str, str]]:
    """The tensors (read from disk when first used) and the metadata of one safetensors file."""
    _check_header(path)
    try:
        loaded: Any = mx.load(str(path), format="safetensors", return_metadata=True)
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path} could not be read as safetensors: {error}") from error
    tensors, metadata = loaded
    return tensors, metadata


def _check_header(path: Path) -> None:
    """A file is read only after its header says that it is whole: MLX reads late, and would fail in mid-render."""
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}; a safetensors file is expected there")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= MAX_HEADER_BYTES:
            raise CheckpointError(f"{path} is not a safetensors file: it does not begin with a header's length")
        header = file.read(length)
    if len(header) < length:
        raise CheckpointError(f"{path} is truncated: it ends inside its header")
    try:
        entries = json.loads(header)
        entries.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a safetensors file: its header is not the expected JSON") from error
    if size < 8 + length + end:
        raise CheckpointError(f"{path} is truncated: {size:,} bytes of {8 + length + end:,}; download it again")


def load_weights(model: nn.Module, weights: Weights, *, source: Path, dtype: mx.Dtype, float32: str = "") -> None:
    """Put `weights` into `model`, cast to `dtype`, and evaluate them.

    The names must be the model's own, neither more nor fewer, and 5-D tensors are PyTorch convolutions (O, I, D, H,
    W), which MLX wants as (O, D, H, W, I). Those whose name begins with `float32`, if given, stay in that precision.
    Raises CheckpointError that names the first five tensors that are missing, unexpected or of a wrong shape.
    """
    parameters: Any = tree_flatten(model.parameters())
    expected = {name: _file_shape(value.shape) for name, value in parameters}
    _refuse(source, "lacks", "the model needs them", sorted(expected.keys() - weights.keys()))
    _refuse(source, "holds unexpected", "the config names no such layers", sorted(weights.keys() - expected.keys()))
    wrong = [
        f"{name} {tuple(weights[name].shape)} instead of {shape}"
        for name, shape in sorted(expected.items())
        if tuple(weights[name].shape) != shape
    ]
    _refuse(source, "has the wrong shape in", "the shapes are those that the config gives", wrong)

    def convert(name: str, value: mx.array) -> mx.array:
        if value.ndim == 5:
            value = value.transpose(0, 2, 3, 4, 1)
        return value.astype(mx.float32 if float32 and name.startswith(float32) else dtype)

    model.load_weights([(name, convert(name, value)) for name, value in weights.items()])
    mx.eval(model.parameters())


def _file_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], shape[4], *shape[1:4]) if len(shape) == 5 else tuple(shape)


def _refuse(source: Path, what: str, why: str, names: list[str]) -> None:
    if names:
        more = f", … ({len(names)} in all)" if len(names) > NAMED_IN_ERRORS else ""
        plural = "tensors" if len(names) > 1 else "tensor"
        raise CheckpointError(f"{source} {what} {plural} {', '.join(names[:NAMED_IN_ERRORS])}{more}: {why}")


def parse_config(kind: type[C], section: Mapping[str, Any], supported: Mapping[str, Any], *, source: str) -> C:
    """A config dataclass from the fields that it shares with `section`.

    `supported` says the only value that each key may have, where it is present: anything else is another
    architecture. Raises CheckpointError.
    """
    for key, value in supported.items():
        if section.get(key, value) != value:
            raise CheckpointError(f"{source} has {key} = {section[key]!r}; only {value!r} is supported")
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
    return kind(**values)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises CheckpointError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return value


def file_hash(paths: Iterable[Path]) -> str:
    """The SHA-256 of the files' bytes, one after another, in hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
