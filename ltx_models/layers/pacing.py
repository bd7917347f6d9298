"""Work given to MLX at the pace at which it gets done, so that it does not take memory for all of it at once."""

from __future__ import annotations

import mlx.core as mx

from ltx_models.memory import PACE_BYTES

__all__ = ["Pace"]


class Pace:
    """Called with the activations after each part of a model; starts its computation, and waits for the part before.

    Left alone, MLX takes the memory of every intermediate when it queues the work: a call of the 2B transformer at
    768x512x97 then needs 12 GB, 1.2 GB so. The device is never idle, since one part is always queued; the first is
    started at once, so that it computes while the others are being queued. Parts are joined until their activations
    reach `least` bytes, since waiting costs time where they are small; 0 for parts that take much besides. What is
    compiled cannot be paced inside, so that a part is what is compiled as one.
    """

    def __init__(self, least: int = PACE_BYTES) -> None:
        self._least = self._joined = least
        self._started: list[mx.array] = []

    def __call__(self, *arrays: mx.array | None) -> None:
        """Of the last part, those arrays that the next one needs."""
        given = [array for array in arrays if array is not None]
        self._joined += sum(array.nbytes for array in given)
        if self._joined >= self._least:
            mx.async_eval(given)
            mx.eval(self._started)
            self._started, self._joined = given, 0
