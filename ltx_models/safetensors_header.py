"""What a safetensors file says of itself, read without MLX and without its tensors."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltx_models.errors import CheckpointError

__all__ = ["Header", "read_header"]

MAX_HEADER_BYTES = 100_000_000
"""The limit of the format itself: a longer header is some other file."""


@dataclass(frozen=True)
class Header:
    """tensors: name → dtype, as the format writes it ("BF16", "F8_E4M3"), and shape.  metadata: free text."""

    tensors: dict[str, tuple[str, tuple[int, ...]]]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """The header of a file that is whole. Raises CheckpointError if it is missing, truncated or something else."""
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}; a safetensors file is expected there")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= MAX_HEADER_BYTES:
            raise CheckpointError(f"{path} is not a safetensors file: it does not begin with a header's length")
        text = file.read(length)
    if len(text) < length:
        raise CheckpointError(f"{path} is truncated: it ends inside its header")
    try:
        entries: dict[str, Any] = json.loads(text)
        metadata = entries.pop("__metadata__", None) or {}
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        tensors = {name: (str(entry["dtype"]), tuple(entry["shape"])) for name, entry in entries.items()}
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a safetensors file: its header is not the expected JSON") from error
    if size < 8 + length + end:
        raise CheckpointError(f"{path} is truncated: {size:,} bytes of {8 + length + end:,}; download it again")
    return Header(tensors, metadata)
