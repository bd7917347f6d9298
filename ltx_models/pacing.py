"""Work given to MLX at the pace at which it gets done, so that it does not take memory for all of it at once."""

from __future__ import annotations

import mlx.core as mx

from ltx_models.memory import PACE_BYTES

__all__ = ["Pace"]


class Pace:
    """Called with the activations after each part of a model; starts its computation, and waits for the part before.

    Left alone, MLX takes the memory of every intermediate when it queues the work: a call of the 2B transformer at
    768x512x97 then needs 12 GB, 1.2 GB so. The device is never idle, since one part is always queued. Parts are
    joined until their activations reach PACE_BYTES, since waiting costs time where they are small.
    """

    def __init__(self) -> None:
        self._joined = 0
        self._started: mx.array | None = None

    def __call__(self, x: mx.array) -> mx.array:
        """`x` itself."""
        self._joined += x.nbytes
        if self._joined >= PACE_BYTES:
            mx.async_eval(x)
            if self._started is not None:
                mx.eval(self._started)
            self._started, self._joined = x, 0
        return x
