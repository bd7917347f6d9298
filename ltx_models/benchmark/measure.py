"""What is measured, and how it is timed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

__all__ = ["Measurement", "measure", "summarize"]


@dataclass(frozen=True)
class Measurement:
    """The median of `runs` and their least, in milliseconds, and the peak of MLX's memory (or torch's) in bytes, with
    all models resident.

    part: what was measured.  phase: of a whole render, which part of it; "" for a part alone.
    engine: what ran it.  predicted_bytes: the peak that `ltx_models.memory` predicts, 0 where it says nothing of it;
    like the measured one, without the cache of freed buffers.
    """

    part: str
    milliseconds: float
    least: float
    runs: int
    peak_bytes: int
    phase: str = ""
    engine: str = "mlx"
    predicted_bytes: int = 0


def measure(part: str, run: Callable[[], Any], runs: int, predicted_bytes: int = 0) -> Measurement:
    """Times of `run`, which returns when its results are there, after one that compiles."""
    run()
    mx.clear_cache()
    mx.reset_peak_memory()
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return summarize(part, seconds, mx.get_peak_memory(), predicted_bytes=predicted_bytes)


def summarize(
    part: str, seconds: Sequence[float], peak: int, *, phase: str = "", predicted_bytes: int = 0
) -> Measurement:
    """What so many runs took."""
    times = [1e3 * value for value in seconds]
    return Measurement(
        part, statistics.median(times), min(times), len(times), peak, phase, predicted_bytes=predicted_bytes
    )
