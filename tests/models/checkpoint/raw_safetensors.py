"""Read and write Safetensors files as bytes, of any type, and with headers that no library writes."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

Entry = tuple[str, list[int], bytes]
"""Type, shape, bytes."""
Entries = dict[str, Entry]

E4M3 = np.array(
    [
        np.nan
        if code & 0x7F == 0x7F
        else (-1) ** (code >> 7)
        * (
            (code & 7) / 8 * 2.0**-6
            if (code >> 3) & 15 == 0
            else (1 + (code & 7) / 8) * 2.0 ** (((code >> 3) & 15) - 7)
        )
        for code in range(256)
    ],
    np.float32,
)
"""What each byte of a float8_e4m3fn means: a sign, four bits of exponent, three of fraction, and no infinity."""


def read_raw(path: Path) -> tuple[Entries, dict[str, str]]:
    """Return the tensors and the metadata of a file."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    metadata = header.pop("__metadata__", {})
    return {
        name: (entry["dtype"], entry["shape"], body[slice(*entry["data_offsets"])]) for name, entry in header.items()
    }, metadata


def write_raw(path: Path, entries: Mapping[str, Entry], metadata: Mapping[str, str], tail: bytes = b"") -> Path:
    """Write a file; return its path."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, (dtype, shape, data) in entries.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + len(data)]}
        end += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in entries.values()) + tail)
    return path


def floats(entry: Entry) -> np.ndarray:
    """Return the numbers of a float32, float16 or bfloat16 tensor."""
    dtype, shape, data = entry
    if dtype == "BF16":
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
    return np.frombuffer(data, {"F32": np.float32, "F16": np.float16}[dtype]).astype(np.float32).reshape(shape)


def f32(values: Any) -> Entry:
    """Return a float32 tensor."""
    array = np.asarray(values, np.float32, order="C")
    return "F32", list(array.shape), array.tobytes()


def to_e4m3(values: np.ndarray) -> np.ndarray:
    """Return the bytes of the nearest float8_e4m3fn."""
    positive = E4M3[:127]
    upper = np.clip(np.searchsorted(positive, np.abs(values)), 1, 126)
    nearer = np.abs(values) - positive[upper - 1] < positive[upper] - np.abs(values)
    return (np.where(nearer, upper - 1, upper) + np.where(values < 0, 128, 0)).astype(np.uint8)


def to_e5m2(values: np.ndarray) -> np.ndarray:
    """Return the bytes of a near float8_e5m2: the upper half of a float16."""
    return ((values.astype(np.float16).view(np.uint16).astype(np.uint32) + 0x7F) >> 8).astype(np.uint8)
