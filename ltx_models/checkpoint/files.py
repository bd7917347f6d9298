"""Read files of a checkpoint: safetensors, JSON, shards, hashes."""

from __future__ import annotations

import hashlib
import io
import json
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import mlx.core as mx

from ltx_models.errors import CheckpointError
from ltx_models.files.file_kinds import AGAIN, START_BYTES, describe_file, describe_stand_in
from ltx_models.files.safetensors_header import Header, read_header

__all__ = ["INDEX_SUFFIXES", "Weights", "file_hash", "indexed_files", "load_tensors", "read_json", "sharded_files"]

Weights = dict[str, mx.array]

READABLE = {
    "F64": "U32",
    "F32": "F32",
    "F16": "F16",
    "BF16": "BF16",
    "F8_E4M3": "F8_E4M3",
    "F8_E5M2": "U8",
    **{name: name for name in ("F8_E8M0", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL", "C64")},
}
"""The format's types, and the types that MLX reads such tensors as."""
RECAST = tuple(name for name, read_as in READABLE.items() if read_as != name)
CONVERSIONS: dict[str, Callable[[mx.array], mx.array]] = {
    "F8_E5M2": lambda value: (value.astype(mx.uint16) << 8).view(mx.float16),
    "F64": lambda value: value.view(mx.float64, stream=mx.cpu)[..., 0].astype(mx.float32, stream=mx.cpu),
    "F8_E8M0": lambda value: value.astype(mx.uint16),
}
"""Conversions of tensors from the type that MLX reads them as: e5m2 is the upper half of a float16; exponents (e8m0)
must not be taken for the bytes of an e4m3 tensor, which MLX returns as uint8, and its own writer writes as U8.
"""
INDEX_SUFFIXES = (".safetensors.index.json", ".safetensors.index.fp16.json")
"""Names of Hugging Face libraries for the list of a model's shards: of its usual files, and of those in float16."""
OTHER_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx")
"""Suffixes of other files that people put where safetensors are expected."""


class RecastFile(io.RawIOBase):
    """A safetensors file in whose header types that MLX does not know are replaced by types that it knows."""

    def __init__(self, path: Path, header: Header) -> None:
        super().__init__()
        self._file = path.open("rb", buffering=0)
        length = struct.unpack("<Q", self._file.read(8))[0]
        entries: dict[str, Any] = json.loads(self._file.read(length))
        for name, (dtype, shape) in header.tensors.items():
            entries[name]["dtype"] = READABLE[dtype]
            if dtype == "F64":
                entries[name]["shape"] = [*shape, 2]
        text = json.dumps(entries).encode()
        self._start = struct.pack("<Q", len(text)) + text
        self._shift = header.size - len(self._start)
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position that is read next."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position that is read next, and return it."""
        if whence == io.SEEK_END:
            offset += self._file.seek(0, io.SEEK_END) - self._shift
        self._position = offset + (self._position if whence == io.SEEK_CUR else 0)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read as many bytes as there are and as fit, and return their number."""
        view = memoryview(buffer).cast("B")
        if self._position < len(self._start):
            part = self._start[self._position :][: len(view)]
            view[: len(part)] = part
            count = len(part)
        else:
            self._file.seek(self._position + self._shift)
            count = self._file.readinto(view) or 0
        self._position += count
        return count

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


def load_tensors(path: Path) -> tuple[Weights, dict[str, str]]:
    """Return the tensors, read from disk when first used, and the metadata of one safetensors file.

    MLX reads late, and would fail during a render: a file that is not whole is refused here. fp8 tensors are returned
    as their bytes where they are e4m3 (see `ltx_models.layers.fp8.is_fp8`), and as float16, which has each of their
    values, where they are e5m2; float64 ones as float32.

    Raises:
        CheckpointError: The file is missing, truncated, damaged, or of another format.
    """
    header = read_header(path)
    if unknown := [f"{name} ({dtype})" for name, (dtype, _) in header.tensors.items() if dtype not in READABLE]:
        raise CheckpointError(
            f"{path} has tensors of unsupported types, such as {unknown[0][:200]}; supported are {' '.join(READABLE)}"
        )
    recast = any(dtype in RECAST for dtype, _ in header.tensors.values())
    file: Any = RecastFile(path, header) if recast else str(path)
    try:
        loaded: Any = mx.load(file, format="safetensors", return_metadata=True)
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path} could not be read as safetensors: {error}") from error
    tensors: Weights = loaded[0]
    for name, (dtype, _) in header.tensors.items():
        if convert := CONVERSIONS.get(dtype):
            tensors[name] = convert(tensors[name])
    return tensors, header.metadata


def sharded_files(folder: Path, stem: str) -> list[Path]:
    """Return the safetensors files of a model in a Hugging Face folder: the shards of its index, or STEM.safetensors.

    The files may be a float16 variant (`STEM.fp16…`), where there are no others.

    Raises:
        CheckpointError: A file is missing, or does not match the index.
    """
    for index in (folder / f"{stem}{suffix}" for suffix in INDEX_SUFFIXES):
        if index.is_file():
            return indexed_files(index)
    single, half = folder / f"{stem}.safetensors", folder / f"{stem}.fp16.safetensors"
    found = half if half.is_file() and not single.is_file() else single
    if not found.exists():
        others = sorted(path for path in folder.glob("*") if path.suffix in OTHER_SUFFIXES and path.is_file())
        if others:
            with others[0].open("rb") as file:
                what = describe_file(others[0], file.read(START_BYTES))
            raise CheckpointError(f"there is no file {single}; {others[0].name} is not a safetensors file{what}")
    return [found]


def indexed_files(index: Path) -> list[Path]:
    """Return the files that an index (`….safetensors.index.json`) lists, which are in its folder.

    Raises:
        CheckpointError: A file is missing, or does not match the index.
    """
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(_is_file_name(name) for name in names.values()):
        raise CheckpointError(f"{index} has no weight_map from tensors to files; {AGAIN}")
    listed: dict[str, set[str]] = {}
    for tensor, file in names.items():
        listed.setdefault(Path(file).name, set()).add(tensor)
    paths = [index.parent / file for file in sorted(listed)]
    for path in paths:
        if odd := sorted(listed[path.name] ^ read_header(path).tensors.keys()):
            says, other = ("says that", "holds no") if odd[0] in listed[path.name] else ("does not say that", "holds")
            raise CheckpointError(
                f"{index} {says} {odd[0][:200]} is in {path.name}, which {other} such tensor: the files are not of one"
                f" model; {AGAIN}"
            )
    return paths


def _is_file_name(name: Any) -> bool:
    return isinstance(name, str) and Path(name).name not in ("", "..")


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object from a file. Raise CheckpointError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON{describe_stand_in(path) or f': {error}'}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return value


def file_hash(paths: Iterable[Path]) -> str:
    """Return the SHA-256 of the files' bytes, one after another, in hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
