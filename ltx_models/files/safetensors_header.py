"""Read the header of a safetensors file, without MLX and without its tensors."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltx_models.errors import CheckpointError
from ltx_models.files.file_kinds import AGAIN, START_BYTES, describe_file, describe_other_model
from ltx_models.machine_faults import KIND_OF

__all__ = ["Header", "check_checkpoint", "read_header"]

MAX_HEADER_BYTES = 100_000_000
"""The limit of the format itself: a longer header is another kind of file."""
ITEM_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
}
"""Bits of a number of each known type; the size of tensors of other types is not checked."""


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file.

    Attributes:
        tensors: Type, in the format's spelling ("BF16", "F8_E4M3"), and shape of each tensor, by name.
        metadata: Free text.
        size: Bytes from the file's beginning to its first tensor.
    """

    tensors: dict[str, tuple[str, tuple[int, ...]]]
    metadata: dict[str, str]
    size: int


def read_header(path: Path) -> Header:
    """Return the header of a file that is whole.

    The header's tensors are checked against the format, since readers may trust it.

    Raises:
        CheckpointError: The file is missing, truncated, damaged or of another format.
    """
    try:
        if path.is_file():
            return _read(path)
        raise CheckpointError(_why_no_file(path))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}", KIND_OF.get(error.errno or 0)) from error


def check_checkpoint(path: Path) -> None:
    """Raise CheckpointError unless a file is whole and LTX-Video's, or all safetensors files of a folder are whole."""
    if path.is_dir():
        for file in sorted(path.glob("*.safetensors")):
            read_header(file)
    elif other := describe_other_model(read_header(path).tensors):
        raise CheckpointError(f"{path} is {other}")


def _read(path: Path) -> Header:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(START_BYTES)
        length = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else 0
        if not 2 <= length <= MAX_HEADER_BYTES or start[8:9] not in (b"{", b""):
            raise CheckpointError(f"{path} is not a safetensors file{describe_file(path, start)}")
        if size < 8 + length:
            raise CheckpointError(f"{path} is truncated: it ends inside its header; {AGAIN}")
        file.seek(8)
        text = file.read(length)
    try:
        entries = json.loads(text.decode(), object_pairs_hook=_unique)
        metadata = entries.pop("__metadata__", None) or {}
        if not all(_is_text(name) and _is_text(value) for name, value in metadata.items()):
            raise ValueError("metadata that is not text")
        places = sorted(_place_of(name, entry) for name, entry in entries.items())
        tensors = {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not a safetensors file: its header is not the expected JSON; {AGAIN}"
        ) from error
    _check_places(path, places, size - 8 - length)
    return Header(tensors, metadata, 8 + length)


def _why_no_file(path: Path) -> str:
    if path.is_dir():
        return f"{path} is a folder; a safetensors file is expected there"
    if path.is_symlink():
        return f"there is no file {path}: it is a broken link to {path.readlink()}; link to the file again"
    if path.exists():
        return f"{path} is not a regular file; a safetensors file is expected there"
    return f"there is no file {path}; a safetensors file is expected there"


def _check_places(path: Path, places: list[tuple[int, int]], size: int) -> None:
    """Raise CheckpointError unless the tensors fill the file, one after another, as the format requires."""
    whole = max((end for _, end in places), default=0)
    if size < whole:
        beyond = path.stat().st_size - size
        raise CheckpointError(f"{path} is truncated: {size + beyond:,} bytes of {whole + beyond:,}; {AGAIN}")
    position = 0
    for begin, end in places:
        if begin != position:
            raise CheckpointError(
                f"{path} is damaged: its header assigns the same bytes to two tensors, or bytes to none; {AGAIN}"
            )
        position = end
    if size > whole:
        raise CheckpointError(
            f"{path} is damaged: {size - whole:,} bytes follow the last tensor that its header names; {AGAIN}"
        )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return pairs as a dict. Raise ValueError for a repeated name, since readers might use different pairs."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name appears twice")
    return found


def _is_text(value: Any) -> bool:
    """Return whether a value is a string. Raise UnicodeEncodeError for lone surrogates, which are not printable."""
    return isinstance(value, str) and (value.isascii() or bool(value.encode()))


def _place_of(name: str, entry: dict[str, Any]) -> tuple[int, int]:
    """Return where a tensor begins and ends, in bytes from the end of the header. Raise ValueError for invalid ones."""
    dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    numbers = [*shape, begin, end]
    if not (_is_text(name) and _is_text(dtype)) or any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError("a tensor without type, shape or offsets")
    bits = ITEM_BITS.get(dtype)
    if begin > end or (bits is not None and math.prod(shape) * bits != (end - begin) * 8):
        raise ValueError("a tensor whose offsets do not match its size")
    return int(begin), int(end)
