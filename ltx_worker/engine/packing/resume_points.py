"""Read the resume points that attempts have left for the next, on this machine or another, in every format there was.

`ResumePoint` itself reads and writes the current one. Before it, the latents were in NumPy's own format (`.npz`),
beside the step and a description of the job, the models and the precision that made them.
"""

from __future__ import annotations

import json

import numpy as np

from ltx_models.errors import ResumeMismatch
from ltx_models.families.stages import DENOISE
from ltx_models.request import MAX_STEPS
from ltx_models.resume_point import LARGEST, Provenance, ResumePoint
from ltx_models.sampling.denoise import EXTRA, LATENTS
from ltx_worker.engine.packing.arrays import DamagedArrays, read_arrays

__all__ = ["unpack"]

ZIP = b"PK\x03\x04"
"""What the format before the current one begins with."""
PARSE_ERRORS = (DamagedArrays, ValueError, KeyError, TypeError, OverflowError, AttributeError, RecursionError)
"""What reading bytes raises that are no resume point."""


def unpack(data: bytes, needed: Provenance) -> ResumePoint:
    """Return the resume point in `data`; the pipeline checks that its arrays are those that the request needs.

    Raises:
        ResumeMismatch: it is damaged, or was made by something else than what is needed.
    """
    point = _from_npz(data, needed) if data.startswith(ZIP) else ResumePoint.unpack(data)
    point.require(needed)
    return point


def _from_npz(data: bytes, needed: Provenance) -> ResumePoint:
    """Return the resume point in `data`, which an older worker has saved.

    That said nothing of the quantization, which follows from the variant, and that from the job.
    """
    if len(data) > LARGEST:
        raise ResumeMismatch(f"the resume point has {len(data):,} bytes, and {LARGEST:,} are the most")
    try:
        arrays = read_arrays(data)
        maker = {str(name): str(value) for name, value in json.loads(str(arrays["maker"])).items()}
        step, latents, extra = arrays["step"], arrays["latents"], arrays.get("extra")
    except PARSE_ERRORS as error:
        raise ResumeMismatch(f"the resume point is damaged ({error})") from error
    if step.ndim or step.dtype.kind != "i" or not 0 < step <= MAX_STEPS:
        raise ResumeMismatch(f"the resume point is of no step from 1 to {MAX_STEPS}")
    for array, dimensions in ((latents, 5), (extra, 3)):
        if array is not None and not _is_usable(array, dimensions):
            raise ResumeMismatch(
                f"the resume point has an array {array.dtype} {array.shape}, or values that are not finite"
            )
    provenance = Provenance(
        job=maker.pop("job", ""),
        dtype=maker.pop("dtype", ""),
        version=maker.pop("version", ""),
        hashes=maker,
        quantization=needed.quantization,
    )
    return ResumePoint(
        DENOISE.name, int(step), {LATENTS: latents, **({} if extra is None else {EXTRA: extra})}, provenance
    )


def _is_usable(array: np.ndarray, dimensions: int) -> bool:
    return array.dtype == np.float32 and array.ndim == dimensions and bool(np.isfinite(array).all())
