"""Measure whole renders: by phase, with previews, and one after another as a worker makes them."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import psutil

from ltx_models.benchmark.bench import Bench, plans_beside
from ltx_models.benchmark.measure import Measurement, summarize
from ltx_models.errors import OutOfMemory
from ltx_models.families.variants import Variant
from ltx_models.memory import GB, component_weights, phase_working
from ltx_models.request import GenerationRequest
from ltx_models.video import write_mp4

__all__ = ["check_memory", "measure_renders", "measure_whole"]

PANNED = 2
"""Pixels that the camera pans in a frame."""
PARTICIPLES = {"denoise": "denoising"}
"""What the times of phases with previews are called."""
PREVIEWS = (0, 3, 1)
"""The intervals of previews in steps; 0 for no previews."""


def check_memory(variant: Variant, request: GenerationRequest) -> None:
    """Raise OutOfMemory where measuring needs more memory than is free: other programs would be ended, or stall."""
    working = phase_working(variant, request, plans_beside(variant, request))
    needed = resident_bytes(variant) + max(working[each.name] for each in variant.family.resident)
    free = free_memory()
    if needed > free:
        raise OutOfMemory(
            f"measuring {variant.name} needs {needed / GB:.1f} GB of memory, since all its models are loaded at once,"
            f" and {free / GB:.1f} GB are free; end other programs, such as a worker, or measure another variant or a"
            " smaller video"
        )


def resident_bytes(variant: Variant) -> int:
    """Return the bytes of the weights that every render uses."""
    weights = component_weights(variant)
    return sum(weights[each.name] for each in variant.family.resident)


def free_memory() -> int:
    """Return the bytes that MLX may take now; on a GPU with memory of its own, all of that."""
    if mx.cuda.is_available() and mx.default_device() == mx.Device(mx.gpu):
        info: Any = mx.device_info()
        if total := info.get("memory_size") or info.get("total_memory"):
            return int(total)
    return int(psutil.virtual_memory().available)


def measure_renders(bench: Bench, runs: int) -> Iterator[Measurement]:
    """Measure renders by phase, from text to MP4; with previews; then several clips in a row."""
    clips = _Clips(bench)
    yield from _whole(clips, runs)
    if bench.previewed:
        yield from _with_previews(bench, runs)
    yield from _clip_after_clip(clips, runs)


def measure_whole(bench: Bench, runs: int) -> Iterator[Measurement]:
    """Measure renders by phase alone."""
    yield from _whole(_Clips(bench), runs)


def _whole(clips: _Clips, runs: int) -> Iterator[Measurement]:
    bench = clips.bench
    whole = [clips.whole() for _ in range(1 + runs)][1:]
    resident, working = resident_bytes(bench.variant), phase_working(bench.variant, bench.request, bench.plans)
    for phase in whole[0].seconds:
        peak = max(clip.peaks[phase] for clip in whole)
        component = bench.phases.get(phase)
        predicted = resident + working[component] if component else 0
        seconds = [clip.seconds[phase] for clip in whole]
        yield summarize("whole render", seconds, peak, phase=phase, predicted_bytes=predicted)
    peak = max(max(clip.peaks.values()) for clip in whole)
    yield summarize("whole render", [sum(clip.seconds.values()) for clip in whole], peak, phase="all")


@dataclass
class _Clock:
    """The seconds, and MLX's peak memory, of each phase."""

    seconds: dict[str, float] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)
    since: float = field(default_factory=time.perf_counter)

    def finish(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[phase], self.since = now - self.since, now
        self.peaks[phase] = mx.get_peak_memory()
        mx.reset_peak_memory()


class _Clips:
    """The clips of one request."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._video = panned_picture(bench.request)

    def encode(self) -> None:
        """Encode a substitute for the video: random weights draw noise, which takes an encoder far longer."""
        assert self.bench.request.frame_rate
        with tempfile.TemporaryDirectory() as folder:
            write_mp4(self._video, Path(folder) / "video.mp4", self.bench.request.frame_rate)

    def whole(self) -> _Clock:
        mx.clear_cache()
        mx.reset_peak_memory()
        clock = _Clock()
        given: Any = None
        for phase in self.bench.phases:
            given = self.bench.run(phase, given)
            clock.finish(phase)
        self.encode()
        clock.finish("encode")
        return clock


def panned_picture(request: GenerationRequest) -> list[np.ndarray]:
    """Return frames, uint8 (H, W, 3), of a picture that the camera pans over by two pixels a frame.

    The picture has the spectrum of photographs, amplitudes as 1/f (Field, 1987).
    """
    assert request.width and request.height and request.num_frames
    height, width = request.height, request.width + PANNED * request.num_frames
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    noise = np.fft.rfft2(np.random.default_rng(3).standard_normal((3, height, width)))
    picture = np.fft.irfft2(noise / frequency, s=(height, width))
    picture = np.clip(128 + 50 * picture / picture.std(), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    starts = range(0, PANNED * request.num_frames, PANNED)
    return [picture[:, start : start + request.width] for start in starts]


def _with_previews(bench: Bench, runs: int) -> Iterator[Measurement]:
    """Measure each interval in turn, so that other work of the machine affects all of them."""
    seconds: dict[int, list[float]] = defaultdict(list)
    for run in range(1 + runs):
        for every in PREVIEWS:
            started = time.perf_counter()
            bench.run(bench.previewed, previews_every=every)
            if run:  # the first compiles
                seconds[every].append(time.perf_counter() - started)
    doing = PARTICIPLES.get(bench.previewed, bench.previewed)
    for every in PREVIEWS:
        name = "no previews" if not every else "a preview every step" if every == 1 else f"every {every} steps"
        yield summarize(f"{doing}, {name}", seconds[every], mx.get_peak_memory())


def _clip_after_clip(clips: _Clips, runs: int) -> Iterator[Measurement]:
    """Measure from one clip's start to the next one's.

    The prompt's embeddings are known, and an MP4 is written while the next clip is rendered.
    """
    bench = clips.bench
    phases: dict[str, list[float]] = {each: [] for each in bench.phases if each != bench.texts}
    rest: dict[str, list[float]] = {"all else": [], "all": []}
    with ThreadPoolExecutor(1) as writer:
        written: Future[None] | None = None
        since = time.perf_counter()
        for run in range(2 + runs):
            given: Any = None
            took: dict[str, float] = {}
            for phase in phases:
                started = time.perf_counter()
                given = bench.run(phase, given)
                took[phase] = time.perf_counter() - started
            if written is not None:
                written.result()
            written = writer.submit(clips.encode)
            now = time.perf_counter()
            if run > 1:  # during the first two no MP4 is being written
                for phase, seconds in took.items():
                    phases[phase].append(seconds)
                rest["all else"].append(now - since - sum(took.values()))
                rest["all"].append(now - since)
            since = now
    for phase, times in (phases | rest).items():
        yield summarize("clip after clip", times, mx.get_peak_memory(), phase=phase)
