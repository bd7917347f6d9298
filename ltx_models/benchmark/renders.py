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

from ltx_models.benchmark.measure import Measurement, summarize
from ltx_models.benchmark.models import RandomModels
from ltx_models.benchmark.parts import PROMPT_TOKENS, decode, encode, plan_of
from ltx_models.errors import OutOfMemory
from ltx_models.events import PromptEmbeddings, Stepped
from ltx_models.families.variants import Variant
from ltx_models.memory import GB, component_weights, phase_working
from ltx_models.pipeline.preview import with_previews
from ltx_models.request import GenerationRequest
from ltx_models.sampling.conditioning import Canvas
from ltx_models.sampling.denoise import LATENTS, Denoiser, schedule_steps
from ltx_models.sampling.latents import latent_shape, to_tokens
from ltx_models.transformers.ltxv import pixel_coordinates
from ltx_models.video import write_mp4

__all__ = ["check_memory", "measure_renders", "measure_whole"]

COMPONENTS = {"text": "text_encoder", "denoise": "transformer", "decode": "vae"}
"""The model that works in each phase."""
RESIDENT = ("text_encoder", "transformer", "vae")
PANNED = 2
"""Pixels that the camera pans in a frame."""
PREVIEWS = (0, 3, 1)
"""The intervals of previews in steps; 0 for no previews."""


def check_memory(variant: Variant, request: GenerationRequest) -> None:
    """Raise OutOfMemory where measuring needs more memory than is free: other programs would be ended, or stall."""
    weights, working = component_weights(variant), phase_working(variant, request, plan_of(variant, request))
    needed = sum(weights[name] for name in RESIDENT) + max(working[name] for name in RESIDENT)
    free = free_memory()
    if needed > free:
        raise OutOfMemory(
            f"measuring {variant.name} needs {needed / GB:.1f} GB of memory, since all its models are loaded at once,"
            f" and {free / GB:.1f} GB are free; end other programs, such as a worker, or measure another variant or a"
            " smaller video"
        )


def free_memory() -> int:
    """Return the bytes that MLX may take now; on a GPU with memory of its own, all of that."""
    if mx.cuda.is_available() and mx.default_device() == mx.Device(mx.gpu):
        info: Any = mx.device_info()
        if total := info.get("memory_size") or info.get("total_memory"):
            return int(total)
    return int(psutil.virtual_memory().available)


def measure_renders(
    variant: Variant, models: RandomModels, request: GenerationRequest, runs: int
) -> Iterator[Measurement]:
    """Measure renders by phase, from text to MP4; denoising with previews; then several clips in a row."""
    clips = _Clips(variant, models, request)
    yield from _whole(clips, variant, request, runs)
    yield from _with_previews(clips, runs)
    yield from _clip_after_clip(clips, runs)


def measure_whole(
    variant: Variant, models: RandomModels, request: GenerationRequest, runs: int
) -> Iterator[Measurement]:
    """Measure renders by phase alone."""
    yield from _whole(_Clips(variant, models, request), variant, request, runs)


def _whole(clips: _Clips, variant: Variant, request: GenerationRequest, runs: int) -> Iterator[Measurement]:
    whole = [clips.whole() for _ in range(1 + runs)][1:]
    weights, working = component_weights(variant), phase_working(variant, request, clips.plan)
    resident = sum(weights[name] for name in RESIDENT)
    for phase in whole[0].seconds:
        peak = max(clip.peaks[phase] for clip in whole)
        predicted = resident + working[COMPONENTS[phase]] if phase in COMPONENTS else 0
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

    def __init__(self, variant: Variant, models: RandomModels, request: GenerationRequest) -> None:
        self._models = models
        self._request = request
        self.plan = plan_of(variant, request)
        self._shape = latent_shape(request, variant.architecture.latent_channels)
        self._text = self.text()
        self._video = panned_picture(request)

    def text(self) -> PromptEmbeddings:
        text = encode(self._models.text_encoder, PROMPT_TOKENS)
        mask = np.ones(text.shape[:2], np.int32)
        return PromptEmbeddings(text, mask, text, mask)

    def denoise(self, text: PromptEmbeddings | None = None, previews_every: int = 0) -> np.ndarray:
        transformer, request, shape = self._models.transformer, self._request, self._shape
        canvas = Canvas(
            to_tokens(np.random.default_rng(2).standard_normal(shape, np.float32)),
            pixel_coordinates(*shape[2:], causal=transformer.config.causal_temporal_positioning),
        )
        assert request.num_steps
        timesteps = request.timesteps or tuple(np.linspace(1, 1 / request.num_steps, request.num_steps).tolist())
        steps = Denoiser(transformer, request, schedule_steps(timesteps, 0, 0), text or self._text).run(canvas, shape)
        stream = with_previews(steps, lambda: self._models.vae, request, shape, previews_every)
        *_, last = (event for event in stream if isinstance(event, Stepped))
        return last.resume.arrays[LATENTS]

    def decode(self, latents: np.ndarray) -> None:
        for _ in decode(self._models.vae, mx.array(latents), self.plan):
            pass  # a worker hands each part to the encoder

    def encode(self) -> None:
        """Encode a substitute for the video: random weights draw noise, which takes an encoder far longer."""
        assert self._request.frame_rate
        with tempfile.TemporaryDirectory() as folder:
            write_mp4(self._video, Path(folder) / "video.mp4", self._request.frame_rate)

    def whole(self) -> _Clock:
        mx.clear_cache()
        mx.reset_peak_memory()
        clock = _Clock()
        text = self.text()
        clock.finish("text")
        latents = self.denoise(text)
        clock.finish("denoise")
        self.decode(latents)
        clock.finish("decode")
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


def _with_previews(clips: _Clips, runs: int) -> Iterator[Measurement]:
    """Measure each interval in turn, so that other work of the machine affects all of them."""
    seconds: dict[int, list[float]] = defaultdict(list)
    for run in range(1 + runs):
        for every in PREVIEWS:
            started = time.perf_counter()
            clips.denoise(previews_every=every)
            if run:  # the first compiles
                seconds[every].append(time.perf_counter() - started)
    for every in PREVIEWS:
        name = "no previews" if not every else "a preview every step" if every == 1 else f"every {every} steps"
        yield summarize(f"denoising, {name}", seconds[every], mx.get_peak_memory())


def _clip_after_clip(clips: _Clips, runs: int) -> Iterator[Measurement]:
    """Measure from one denoising's start to the next one's.

    The prompt's embeddings are known, and an MP4 is written while the next clip is rendered.
    """
    phases: dict[str, list[float]] = defaultdict(list)
    with ThreadPoolExecutor(1) as writer:
        written: Future[None] | None = None
        since = time.perf_counter()
        for run in range(2 + runs):
            started = time.perf_counter()
            latents = clips.denoise()
            denoised = time.perf_counter()
            clips.decode(latents)
            decoded = time.perf_counter()
            if written is not None:
                written.result()
            written = writer.submit(clips.encode)
            now = time.perf_counter()
            if run > 1:  # during the first two no MP4 is being written
                phases["denoise"].append(denoised - started)
                phases["decode"].append(decoded - denoised)
                phases["all else"].append(now - since - (decoded - started))
                phases["all"].append(now - since)
            since = now
    for phase, seconds in phases.items():
        yield summarize("clip after clip", seconds, mx.get_peak_memory(), phase=phase)
