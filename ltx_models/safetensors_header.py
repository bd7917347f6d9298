"""What a safetensors file says of itself, read without MLX and without its tensors."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltx_models.errors import CheckpointError

__all__ = ["Header", "read_header"]

MAX_HEADER_BYTES = 100_000_000
"""The limit of the format itself: a longer header is some other file."""
ITEM_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
}
"""Of the types that are known here; of others, the size is not checked."""


@dataclass(frozen=True)
class Header:
    """tensors: name → dtype, as the format writes it ("BF16", "F8_E4M3"), and shape.  metadata: free text."""

    tensors: dict[str, tuple[str, tuple[int, ...]]]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """The header of a file that is whole. Raises CheckpointError if it is missing, truncated or something else.

    What it says of its tensors is held against the format, since who reads them may believe it.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}; a safetensors file is expected there")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= MAX_HEADER_BYTES:
            raise CheckpointError(f"{path} is not a safetensors file: it does not begin with a header's length")
        if size < 8 + length:
            raise CheckpointError(f"{path} is truncated: it ends inside its header")
        text = file.read(length)
    try:
        entries = json.loads(text.decode(), object_pairs_hook=_unique)
        metadata = entries.pop("__metadata__", None) or {}
        if not all(_is_text(name) and _is_text(value) for name, value in metadata.items()):
            raise ValueError("metadata that is no text")
        ends = [_end_of(name, entry) for name, entry in entries.items()]
        tensors = {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a safetensors file: its header is not the expected JSON") from error
    whole = 8 + length + max(ends, default=0)
    if size < whole:
        raise CheckpointError(f"{path} is truncated: {size:,} bytes of {whole:,}; download it again")
    return Header(tensors, metadata)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two readers might take two different ones of the same name."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name comes twice")
    return found


def _is_text(value: Any) -> bool:
    """Whether it is a string of characters: half of a surrogate pair is none, and cannot be printed."""
    return isinstance(value, str) and (value.isascii() or bool(value.encode()))


def _end_of(name: str, entry: dict[str, Any]) -> int:
    """Where a tensor ends, in bytes from the end of the header. Raises ValueError for one that is not in order."""
    dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    numbers = [*shape, begin, end]
    if not (_is_text(name) and _is_text(dtype)) or any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError("a tensor without type, shape or place")
    bits = ITEM_BITS.get(dtype)
    if begin > end or (bits is not None and math.prod(shape) * bits != (end - begin) * 8):
        raise ValueError("a tensor whose place has another size")
    return int(end)
