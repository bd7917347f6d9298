"""Resume points as bytes: what an attempt leaves for the next, on this machine or another.

With the latents goes what they were made of and by: the job, the checkpoint's and the text encoder's hash, the
precision and the version of this code. Another job's or maker's latents are refused, and the render starts again.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ltx_models.events import ResumePoint
from ltx_models.request import MAX_STEPS
from ltx_worker.engine.packing.arrays import DamagedArrays, read_arrays

__all__ = ["Maker", "ResumeRefused", "pack", "unpack"]


@dataclass(frozen=True)
class Maker:
    """What latents depend on.  job: the digest of the job with its request."""

    checkpoint: str
    text_encoder: str
    dtype: str
    version: str
    job: str = ""


class ResumeRefused(Exception):
    """A resume point that this engine cannot go on from: why."""


DAMAGE = (DamagedArrays, ValueError, KeyError, TypeError, OverflowError, AttributeError, RecursionError)
"""What reading one raises that is whole as bytes, but holds something else."""


def pack(point: ResumePoint, maker: Maker) -> bytes:
    """The resume point as bytes, NumPy's own format."""
    buffer = io.BytesIO()
    extra: Any = {} if point.extra is None else {"extra": point.extra}
    np.savez(buffer, latents=point.latents, step=point.step, maker=json.dumps(asdict(maker)), **extra)
    return buffer.getvalue()


def unpack(data: bytes, maker: Maker, steps: int = MAX_STEPS) -> ResumePoint:
    """The resume point in `data`. Raises ResumeRefused unless it is whole, finite, of the same job and maker, and after
    one of its steps, of which there are `steps` at most. Whether the arrays have the request's shape is the pipeline's
    to say.
    """
    try:
        arrays = read_arrays(data)
        made_by = json.loads(str(arrays["maker"]))
        step, latents, extra = arrays["step"], arrays["latents"], arrays.get("extra")
        for name, value in asdict(maker).items():
            if made_by.get(name) != value:
                raise ResumeRefused(f"it was begun with another {name.replace('_', ' ')}")
    except DAMAGE as error:
        raise ResumeRefused(f"what was saved is damaged ({error})") from error
    if step.ndim or step.dtype.kind != "i" or not 0 < step <= steps:
        raise ResumeRefused(f"what was saved is of no step from 1 to {steps}")
    for array, dimensions in ((latents, 5), (extra, 3)):
        if array is not None and not _is_usable(array, dimensions):
            raise ResumeRefused(f"what was saved is {array.dtype} {array.shape}, or not finite")
    return ResumePoint(int(step), latents, extra)


def _is_usable(array: np.ndarray, dimensions: int) -> bool:
    return array.dtype == np.float32 and array.ndim == dimensions and bool(np.isfinite(array).all())
