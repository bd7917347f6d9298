"""Check the sound of a video. Needs no MLX."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ltx_models.errors import NotFinite, VideoError

__all__ = ["MAX_RATE", "MIN_RATE", "Sound"]

MIN_RATE, MAX_RATE = 8_000, 192_000
"""Samples a second: from a telephone's to a studio's."""


@dataclass(frozen=True, eq=False)
class Sound:
    """The sound of a video.

    Attributes:
        samples: float32 (samples, channels), mono or stereo; what is outside [-1, 1] is clipped when it is written.
        rate: Samples a second.

    Raises:
        VideoError: The samples or the rate are invalid.
        NotFinite: There are NaN or infinite samples.
    """

    samples: np.ndarray
    rate: int

    @classmethod
    def of(cls, audio: np.ndarray | None, rate: int | None) -> Sound | None:
        """Return the sound of a result's audio and its rate, or None where it has neither.

        Raises:
            VideoError: They are invalid, or there is one without the other.
            NotFinite: There are NaN or infinite samples.
        """
        if audio is None and rate is None:
            return None
        if audio is None or rate is None:
            raise VideoError("the sound is invalid: samples and their rate come together")
        return cls(audio, rate)

    def __post_init__(self) -> None:
        samples, rate = self.samples, self.rate
        if not isinstance(samples, np.ndarray) or samples.dtype != np.float32:
            kind = samples.dtype if isinstance(samples, np.ndarray) else type(samples).__name__
            raise VideoError(f"the sound is invalid: it is {kind}; use an array of float32")
        if samples.ndim != 2 or samples.shape[1] not in (1, 2) or not len(samples):
            raise VideoError(
                f"the sound is invalid: its shape is {samples.shape}; use (samples, channels), with 1 or 2 channels"
            )
        if isinstance(rate, bool) or not isinstance(rate, int | np.integer) or not MIN_RATE <= rate <= MAX_RATE:
            raise VideoError(
                f"the sound's rate {rate!r} is invalid; use a whole number of samples a second,"
                f" {MIN_RATE:,} to {MAX_RATE:,}"
            )
        if not np.isfinite(samples).all():
            raise NotFinite("the sound has NaN or infinite values")
