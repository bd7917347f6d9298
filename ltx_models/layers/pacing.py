"""Queue work in MLX at the pace at which it completes, so that it does not take memory for all of it at once."""

from __future__ import annotations

import mlx.core as mx

from ltx_models.memory import PACE_BYTES

__all__ = ["Pace"]


class Pace:
    """A pace for the parts of a model: call it with the activations after each part.

    Each call starts the computation of that part, and waits for the part before. Without it, MLX allocates every
    intermediate when it queues the work: a call of the 2B transformer at 768x512x97 then needs 12 GB, and 1.2 GB with
    it. The device is never idle, since one part is always queued; the first part is started at once, so that it
    computes while the others are being queued. What is compiled as one cannot be split, so it is one part.

    Args:
        least: Bytes of activations up to which parts are joined, since waiting costs time where they are small; 0 for
            parts that take much memory in addition to their activations.
    """

    def __init__(self, least: int = PACE_BYTES) -> None:
        self._least = self._joined = least
        self._started: list[mx.array] = []

    def __call__(self, *arrays: mx.array | None) -> None:
        """Start computing the arrays of the last part that the next part needs, and wait for the part before."""
        given = [array for array in arrays if array is not None]
        self._joined += sum(array.nbytes for array in given)
        if self._joined >= self._least:
            mx.async_eval(given)
            mx.eval(self._started)
            self._started, self._joined = given, 0
