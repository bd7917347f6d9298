"""What a render needs: arithmetic without MLX, so that a client can sort a job into its memory class.

GB is 10**9 bytes everywhere.

The table's numbers for pocket are those of float32 on a CPU with MLX 0.32, by MLX's own counter of its peak, at ten
sizes from 32x32x1 to 1024x1024x49: 0.04 GB of weights and 0.39 to 0.40 GB for a million pixels. The prediction is
that, rounded up, plus 0.1 GB of the process around it, so that it is an upper bound (the resident memory of the larger
renders was a third of it: MLX counts buffers that it has reserved and not yet touched).
"""

from __future__ import annotations

from dataclasses import dataclass

from ltx_models.errors import InvalidRequest
from ltx_models.request import GenerationRequest
from ltx_models.variants import Variant

__all__ = ["GB", "MEMORY_CLASSES", "memory_class", "predict_peak"]

GB = 10**9
MEMORY_CLASSES = (1, 4, 8, 12, 16, 25, 36, 64, 128)
"""The ladder of job sizes, in GB: a worker consumes the classes within its budget."""


PACE_BYTES = 20_000_000
"""Activations of a transformer that are queued before its earlier ones are waited for (`ltx_models.pacing`)."""
TILE_OVERLAP = 8
"""Latents that neighbouring tiles of a decode share at least."""


@dataclass(frozen=True)
class DecodePlan:
    """How a video is decoded in pieces.

    chunk_bytes: about the largest array that the decoder makes.  tile: rows and columns of latents that are decoded
    at once, None for all of them.
    """

    chunk_bytes: int
    tile: int | None = None


def predict_peak(variant: Variant, request: GenerationRequest) -> int:
    """The peak of a render, in bytes: the weights and the decode of all its pixels, which dominates.

    `request` is resolved: its size and frames are not None.
    """
    assert request.width and request.height and request.num_frames
    megapixels = request.width * request.height * request.num_frames / 1e6
    return round((variant.weights_gb + variant.gb_per_megapixel * megapixels) * GB)


def memory_class(peak: int) -> int:
    """The least class, in GB, that holds `peak` bytes. Raises InvalidRequest above the ladder."""
    for size in MEMORY_CLASSES:
        if peak <= size * GB:
            return size
    raise InvalidRequest(
        f"this render would need {peak / GB:.0f} GB, more than the largest class of {MEMORY_CLASSES[-1]} GB;"
        " ask for fewer frames or a smaller size"
    )
