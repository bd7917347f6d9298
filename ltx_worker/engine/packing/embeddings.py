"""Text embeddings as bytes: what one engine has encoded, for others of the farm.

With the array goes what it was made of and by (the text, and `EmbeddingMaker.digest`); another's is refused, as is a
damaged one, and the text is encoded again.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict, dataclass

import numpy as np

from ltx_worker.engine.packing.arrays import DamagedArrays, read_arrays

__all__ = ["EmbeddingMaker", "EmbeddingRefused", "origin", "pack", "unpack"]


@dataclass(frozen=True)
class EmbeddingMaker:
    """What embeddings depend on, besides the text: to the last bit, so that a seed's video does not depend on who
    encoded its prompt.
    """

    text_encoder: str
    bits: int | None
    dtype: str
    device: str
    mlx: str
    version: str

    @property
    def digest(self) -> str:
        """All of it in 64 characters."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


class EmbeddingRefused(Exception):
    """Bytes that are not the embedding that is needed: why."""


def origin(maker: str, text: str) -> str:
    """Return what goes with a text's embedding: a digest of the text and of its maker's digest."""
    return hashlib.sha256(f"{maker}\n{text}".encode()).hexdigest()


def pack(embedding: np.ndarray, maker: str) -> bytes:
    """An embedding (1, N, D) float32 as bytes, NumPy's own format with a checksum. Half as many where its values are
    those of bfloat16, the upper halves of a float32.  maker: its `origin`.
    """
    bits = np.ascontiguousarray(embedding, np.float32).view(np.uint32)
    stored = bits if (bits & 0xFFFF).any() else (bits >> 16).astype(np.uint16)
    buffer = io.BytesIO()
    np.savez(buffer, bits=stored, maker=maker)
    return buffer.getvalue()


def unpack(data: bytes, maker: str, shape: tuple[int, int, int]) -> np.ndarray:
    """The embedding in `data`, float32. Raises EmbeddingRefused unless it is whole, of that shape, finite, and made of
    the same text by the same maker.
    """
    try:
        arrays = read_arrays(data)
        stored, made_by = arrays["bits"], str(arrays["maker"])
    except (DamagedArrays, KeyError, ValueError) as error:
        raise EmbeddingRefused(f"it is damaged ({error})") from error
    if made_by != maker:
        raise EmbeddingRefused("another text encoder made it, or of another text")
    if stored.dtype not in (np.uint16, np.uint32) or stored.shape != shape:
        raise EmbeddingRefused(f"it is {stored.dtype} {stored.shape}; {shape} is needed")
    bits = stored if stored.dtype == np.uint32 else stored.astype(np.uint32) << 16
    embedding: np.ndarray = np.ascontiguousarray(bits).view(np.float32)
    if not np.isfinite(embedding).all():
        raise EmbeddingRefused("it holds values that are not numbers")
    return embedding
