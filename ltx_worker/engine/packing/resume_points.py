"""Pack resume points as bytes, from which the next attempt continues, on this machine or another.

What the latents depend on is stored with them: the job, the hashes of checkpoint and text encoder, the precision and
the version of this code. Latents of another job or maker are refused, and the render starts from the beginning.
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
    """Everything that latents depend on.

    Attributes:
        checkpoint: the hash of the checkpoint.
        text_encoder: the hash of the text encoder.
        dtype: the precision of the computation.
        version: the version of this code.
        job: the digest of the job with its request.
    """

    checkpoint: str
    text_encoder: str
    dtype: str
    version: str
    job: str = ""


class ResumeRefused(Exception):
    """This engine cannot continue from the resume point; the message says why."""


PARSE_ERRORS = (DamagedArrays, ValueError, KeyError, TypeError, OverflowError, AttributeError, RecursionError)
"""What reading bytes raises that are no resume point."""


def pack(point: ResumePoint, maker: Maker) -> bytes:
    """Return a resume point as bytes, in NumPy's own format."""
    buffer = io.BytesIO()
    extra: Any = {} if point.extra is None else {"extra": point.extra}
    np.savez(buffer, latents=point.latents, step=point.step, maker=json.dumps(asdict(maker)), **extra)
    return buffer.getvalue()


def unpack(data: bytes, maker: Maker, steps: int = MAX_STEPS) -> ResumePoint:
    """Return the resume point in `data`; the pipeline checks that its arrays have the request's shape.

    Args:
        data: the bytes.
        maker: what the latents must depend on.
        steps: how many steps the render has.

    Raises:
        ResumeRefused: it is damaged, not finite, of another job or maker, or after no step from 1 to `steps`.
    """
    try:
        arrays = read_arrays(data)
        made_by = json.loads(str(arrays["maker"]))
        step, latents, extra = arrays["step"], arrays["latents"], arrays.get("extra")
        for name, value in asdict(maker).items():
            if made_by.get(name) != value:
                raise ResumeRefused(f"it was made with another {name.replace('_', ' ')}")
    except PARSE_ERRORS as error:
        raise ResumeRefused(f"the resume point is damaged ({error})") from error
    if step.ndim or step.dtype.kind != "i" or not 0 < step <= steps:
        raise ResumeRefused(f"the resume point is of no step from 1 to {steps}")
    for array, dimensions in ((latents, 5), (extra, 3)):
        if array is not None and not _is_usable(array, dimensions):
            raise ResumeRefused(
                f"the resume point has an array {array.dtype} {array.shape}, or values that are not finite"
            )
    return ResumePoint(int(step), latents, extra)


def _is_usable(array: np.ndarray, dimensions: int) -> bool:
    return array.dtype == np.float32 and array.ndim == dimensions and bool(np.isfinite(array).all())
