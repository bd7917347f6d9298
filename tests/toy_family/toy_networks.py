"""The networks of the toy family, the pipeline, and what is measured. Needs MLX."""

import hashlib
import time
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from toy_family import CHANNELS, CHUNKS, SIDE

from ltx_models.benchmark.bench import Bench
from ltx_models.benchmark.weights import random_weights
from ltx_models.checkpoint import load_tensors, load_weights
from ltx_models.errors import ResumeMismatch
from ltx_models.events import Decoded, Finished, FramesDecoded, Progress, RenderResult, ResumePoint, StageBegan
from ltx_models.memory import latent_size
from ltx_models.pipeline.base import Pipeline


class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(CHANNELS, CHANNELS, bias=False)

    def __call__(self, latents):
        return mx.tanh(self.layer(latents))


class Painter(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(CHANNELS, 3 * SIDE**2, bias=False)

    def __call__(self, latents):
        """Return pixels in [0, 1], (F, SIDE·H, SIDE·W, 3), of latents (F, H, W, CHANNELS)."""
        frames, height, width, _ = latents.shape
        pixels = mx.sigmoid(self.layer(latents)).reshape(frames, height, width, SIDE, SIDE, 3)
        return pixels.transpose(0, 1, 3, 2, 4, 5).reshape(frames, SIDE * height, SIDE * width, 3)


def _loaded(model, name, path, dtype):
    tensors, _ = load_tensors(path)
    own = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
    load_weights(model, own, source=path, dtype=dtype)
    return model


def load_mixer(path, dtype):
    return _loaded(Mixer(), "mixer", path, dtype)


def load_painter(path, dtype):
    return _loaded(Painter(), "painter", path, dtype)


def polish(latents):
    """The stage of its own: the mean of a frame (H, W, CHANNELS), or of each, is moved to 0."""
    return latents - latents.mean(axis=(-3, -2), keepdims=True)


@dataclass(frozen=True, eq=False)
class ToyResult(RenderResult):
    """A finished video, with an output of its own: how bright each frame is, (F,)."""

    brightness: np.ndarray | None = None


class ToyPipeline(Pipeline):
    def stream(self, request, *, known_texts=None, resume=None, job="", checkpoint_every=0):
        request = request.resolve(self.variant)
        self.models.expect(request)
        size = latent_size(request, self.variant.family.limits)
        shape = (size.frames, size.height, size.width, CHANNELS)
        made_by = self.provenance(job)
        if resume is None:
            word = int.from_bytes(hashlib.sha256(request.prompt.encode()).digest()[:8])
            noise = np.random.default_rng([request.seed, word]).standard_normal(shape, np.float32)
            resume = ResumePoint("dream", 0, {"latents": noise}, made_by)
        elif {name: array.shape for name, array in resume.arrays.items()} != {"latents": shape}:
            raise ResumeMismatch(f"the resume point has other arrays; this request needs latents {shape}")
        else:
            resume.require(made_by)
        latents = mx.array(resume.arrays["latents"])

        def progress(stage, done, of, began):
            mx.eval(latents)
            point = ResumePoint(stage, done, {"latents": np.array(latents)}, made_by)
            return Progress(stage, done, of, time.perf_counter() - began, point)

        if resume.stage == "dream":
            yield StageBegan("dream")
            mixer = self.models.get("mixer")
            for step in range(resume.step + 1, request.num_steps + 1):
                began = time.perf_counter()
                latents = latents + (mixer(latents) - latents) / request.num_steps
                yield progress("dream", step, request.num_steps, began)
        yield StageBegan("polish")
        for frame in range(resume.step if resume.stage == "polish" else 0, request.num_frames):
            began = time.perf_counter()
            latents[frame] = polish(latents[frame])
            yield progress("polish", frame + 1, request.num_frames, began)
        yield StageBegan("paint")
        frames = np.empty((request.num_frames, request.height, request.width, 3), np.uint8)
        painter = self.models.get("painter")
        chunk = CHUNKS[-1]
        for start in range(0, request.num_frames, chunk):
            began = time.perf_counter()
            frames[start : start + chunk] = np.array(mx.round(painter(latents[start : start + chunk]) * 255))
            yield FramesDecoded(start, frames[start : start + chunk])
            yield Progress("paint", start + chunk, request.num_frames, time.perf_counter() - began)
        yield Decoded(frames)
        brightness = frames.mean(axis=(1, 2, 3))
        yield Finished(ToyResult(frames, {"polished": np.array(latents)}, request, brightness=brightness))


class ToyBench(Bench):
    phases = {"dream": "mixer", "polish": "", "paint": "painter"}  # noqa: RUF012
    previewed = ""

    def build(self, dtype):
        self.mixer, self.painter = Mixer(), Painter()
        for model in (self.mixer, self.painter):
            model.update({"layer": {"weight": random_weights(model)["layer.weight"].astype(dtype)}})
        size = latent_size(self.request, self.variant.family.limits)
        self.latents = mx.zeros((size.frames, size.height, size.width, CHANNELS), dtype)

    def parts(self):
        yield "a step", lambda: mx.eval(self.mixer(self.latents))
        yield "a painting", lambda: mx.eval(self.painter(self.latents))

    def run(self, phase, given=None, *, previews_every=0):
        latents = self.latents if given is None else given
        if phase == "dream":
            for _ in range(self.request.num_steps):
                latents = self.mixer(latents)
        elif phase == "polish":
            latents = polish(latents)
        else:
            latents = self.painter(latents)
        mx.eval(latents)
        return latents
