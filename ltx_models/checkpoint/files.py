"""Files of a checkpoint: safetensors, JSON, shards, hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import mlx.core as mx

from ltx_models.errors import CheckpointError
from ltx_models.safetensors_header import read_header

__all__ = ["Weights", "file_hash", "load_tensors", "read_json", "sharded_files"]

Weights = dict[str, mx.array]

INDEX_SUFFIXES = (".safetensors.index.json", ".safetensors.index.fp16.json")
"""What Hugging Face libraries call the list of a model's shards: of its usual files, and of those in float16."""


def load_tensors(path: Path) -> tuple[Weights, dict[str, str]]:
    """The tensors (read from disk when first used) and the metadata of one safetensors file.

    MLX reads late, and would fail in mid-render: a file that is not whole is refused here. Raises CheckpointError.
    """
    read_header(path)
    try:
        loaded: Any = mx.load(str(path), format="safetensors", return_metadata=True)
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path} could not be read as safetensors: {error}") from error
    tensors, metadata = loaded
    return tensors, metadata


def sharded_files(folder: Path, stem: str) -> list[Path]:
    """The safetensors files of a model in a Hugging Face folder: the shards of its index, or STEM.safetensors.

    The files may be a float16 variant (`STEM.fp16…`), where there are no others. Raises CheckpointError.
    """
    for index in (folder / f"{stem}{suffix}" for suffix in INDEX_SUFFIXES):
        if index.is_file():
            names = read_json(index).get("weight_map")
            if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
                raise CheckpointError(f"{index} has no weight_map from tensors to files")
            return [folder / Path(name).name for name in sorted(set(names.values()))]
    single, half = folder / f"{stem}.safetensors", folder / f"{stem}.fp16.safetensors"
    return [half if half.is_file() and not single.is_file() else single]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises CheckpointError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
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
