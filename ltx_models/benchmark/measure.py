"""Time a part of a render, and describe the measurement."""

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
    """The times and the peak memory of several runs, with all models resident.

    Attributes:
        part: What was measured.
        phase: The phase of a whole render; "" for a part alone.
        engine: The library that ran it.
        predicted_bytes: The peak that `ltx_models.memory` predicts, without the cache of freed buffers, as in the
            measured one; 0 where there is no prediction.
        milliseconds: The median of the runs.
        least: The shortest run, in milliseconds.
        runs: The number of runs.
        peak_bytes: The peak of MLX's memory (or torch's), in bytes.
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
    """Time `run`, which returns when its results are computed, after one run that compiles."""
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
    """Return the measurement of runs that took so many seconds each."""
    times = [1e3 * value for value in seconds]
    return Measurement(
        part, statistics.median(times), min(times), len(times), peak, phase, predicted_bytes=predicted_bytes
    )
