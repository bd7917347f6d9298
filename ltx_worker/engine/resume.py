"""Resume points as bytes: what an attempt leaves for the next, on this machine or another.

With the latents goes what they were made by: the checkpoint's and the text encoder's hash, the precision and the
version of this code. Another maker's latents are refused, and the render starts again.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ltx_models.events import ResumePoint

__all__ = ["Maker", "ResumeRefused", "pack", "unpack"]


@dataclass(frozen=True)
class Maker:
    """What latents depend on, besides the request."""

    checkpoint: str
    text_encoder: str
    dtype: str
    version: str


class ResumeRefused(Exception):
    """A resume point that this engine cannot go on from: why."""


def pack(point: ResumePoint, maker: Maker) -> bytes:
    """The resume point as bytes, NumPy's own format."""
    buffer = io.BytesIO()
    extra: Any = {} if point.extra is None else {"extra": point.extra}
    np.savez(buffer, latents=point.latents, step=point.step, maker=json.dumps(asdict(maker)), **extra)
    return buffer.getvalue()


def unpack(data: bytes, maker: Maker) -> ResumePoint:
    """The resume point in `data`. Raises ResumeRefused unless it was made by the same."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            extra = arrays["extra"] if "extra" in arrays.files else None
            point = ResumePoint(int(arrays["step"]), arrays["latents"], extra)
            made_by = json.loads(str(arrays["maker"]))
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ResumeRefused(f"what was saved is damaged ({error})") from error
    for name, value in asdict(maker).items():
        if made_by.get(name) != value:
            raise ResumeRefused(f"it was begun with another {name.replace('_', ' ')}")
    return point
