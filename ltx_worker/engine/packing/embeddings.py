"""Pack text embeddings as bytes, which other engines of the farm read.

The text and `EmbeddingMaker.digest` are stored with the array. An embedding of another text or maker is refused, as is
a damaged one, and the text is encoded again.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ltx_worker.engine.packing.arrays import DamagedArrays, read_arrays

__all__ = ["EmbeddingMaker", "EmbeddingRefused", "origin", "pack", "unpack"]


@dataclass(frozen=True)
class EmbeddingMaker:
    """Everything besides the text that an embedding depends on.

    Embeddings of equal makers are equal to the last bit, so that a seed's video does not depend on who encoded its
    prompt.

    Attributes:
        text: what of the model they depend on, as its pipeline says (`Pipeline.text_origin`).
        dtype: the precision of the computation.
        device: the name of the device.
        mlx: the version of MLX.
        version: the version of this code.
    """

    text: Mapping[str, Any]
    dtype: str
    device: str
    mlx: str
    version: str

    @property
    def digest(self) -> str:
        """Return a digest of all fields, 64 characters; those of `text` are fields like the others."""
        fields = asdict(self)
        fields |= fields.pop("text")
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


class EmbeddingRefused(Exception):
    """The bytes are not the embedding that is needed; the message says why."""


def origin(maker: str, text: str) -> str:
    """Return the digest that identifies a text's embedding, of the text and its maker's digest."""
    return hashlib.sha256(f"{maker}\n{text}".encode()).hexdigest()


def pack(embedding: np.ndarray, maker: str) -> bytes:
    """Return an embedding (1, N, D) float32 as bytes, in NumPy's own format with a checksum.

    Values that are those of bfloat16, the upper halves of a float32, take half as many bytes.

    Args:
        embedding: the array.
        maker: its `origin`.
    """
    bits = np.ascontiguousarray(embedding, np.float32).view(np.uint32)
    stored = bits if (bits & 0xFFFF).any() else (bits >> 16).astype(np.uint16)
    buffer = io.BytesIO()
    np.savez(buffer, bits=stored, maker=maker)
    return buffer.getvalue()


def unpack(data: bytes, maker: str, shape: tuple[int, int, int]) -> np.ndarray:
    """Return the embedding in `data`, float32.

    Raises:
        EmbeddingRefused: it is damaged, not finite, of another shape, of another text, or by another maker.
    """
    try:
        arrays = read_arrays(data)
        stored, made_by = arrays["bits"], str(arrays["maker"])
    except (DamagedArrays, KeyError, ValueError) as error:
        raise EmbeddingRefused(f"it is damaged ({error})") from error
    if made_by != maker:
        raise EmbeddingRefused("it is of another text, or another text encoder made it")
    if stored.dtype not in (np.uint16, np.uint32) or stored.shape != shape:
        raise EmbeddingRefused(f"it is {stored.dtype} {stored.shape}; {shape} is needed")
    bits = stored if stored.dtype == np.uint32 else stored.astype(np.uint32) << 16
    embedding: np.ndarray = np.ascontiguousarray(bits).view(np.float32)
    if not np.isfinite(embedding).all():
        raise EmbeddingRefused("it has values that are not finite")
    return embedding
