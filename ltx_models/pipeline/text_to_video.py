"""Render a request as a video: LTXPipeline."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ltx_models.errors import InvalidRequest, OutOfMemory, ResumeMismatch
from ltx_models.events import (
    Decoded,
    Event,
    Finished,
    FramesDecoded,
    InputRead,
    Progress,
    PromptEmbeddings,
    RenderResult,
    ResumePoint,
    StageBegan,
    TextEncoded,
)
from ltx_models.families.ltxv import FRAME_STRIDE, SIZE_STRIDE
from ltx_models.families.stages import DECODE, DENOISE, TEXT
from ltx_models.families.variants import DEFAULT_VARIANT, UNLISTED
from ltx_models.layers.finite import CheckedConversion, require_finite
from ltx_models.media.spans import Span
from ltx_models.memory import LatentSize
from ltx_models.pipeline.base import Pipeline
from ltx_models.pipeline.conditioning_pixels import read_item
from ltx_models.pipeline.ltxv_models import LTXVModels
from ltx_models.pipeline.preview import with_previews
from ltx_models.request import GenerationRequest
from ltx_models.sampling.conditioning import Canvas, place
from ltx_models.sampling.denoise import EXTRA, LATENTS, Denoiser, Schedule, schedule_steps
from ltx_models.sampling.latents import (
    CONDITIONING_NOISE,
    DECODE_NOISE,
    INITIAL_NOISE,
    LatentShape,
    draw_noise,
    latent_shape,
)
from ltx_models.schedulers import sample_timesteps
from ltx_models.text_encoders.t5 import T5Encoder
from ltx_models.vae import to_floats, to_uint8
from ltx_models.vae.tiling import is_out_of_memory

__all__ = ["LTXPipeline"]


class LTXPipeline(Pipeline):
    """LTX-Video's networks of one variant, and renders with them, as in `Pipeline`."""

    def __init__(self, variant: str = DEFAULT_VARIANT, *, dtype: mx.Dtype | None = None) -> None:
        super().__init__(variant, dtype=dtype)

    @classmethod
    def from_files(
        cls,
        *,
        checkpoint: Path | str,
        text_encoder: Path | str,
        tokenizer: Path | str,
        quantize_transformer: int | None = None,
        quantize_text_encoder: int | None = None,
        dtype: mx.Dtype | None = None,
    ) -> LTXPipeline:
        """Return a pipeline of any 0.9.x files, with LTX-Video's usual values for what a request leaves open.

        Args:
            checkpoint: An official single file, a diffusers folder, or a folder that `ltx models convert` wrote.
            text_encoder: A Hugging Face T5 folder.
            tokenizer: A `spiece.model`.
            quantize_transformer: Bits of the transformer's matrices, 8 or 4, or None.
            quantize_text_encoder: Bits of the text encoder's matrices, 8 or 4, or None.
            dtype: The type of weights and activations, as in the constructor.
        """
        pipeline = cls.__new__(cls)
        paths = {"checkpoint": checkpoint, "text_encoder": text_encoder, "tokenizer": tokenizer}
        bits = {"transformer": quantize_transformer, "text_encoder": quantize_text_encoder}
        variant = dataclasses.replace(
            UNLISTED,
            files={name: str(Path(path).absolute()) for name, path in paths.items()},
            bits={name: value for name, value in bits.items() if value},
        )
        pipeline._set(variant, dtype)
        return pipeline

    @cached_property
    def models(self) -> LTXVModels:
        """The networks, as far as they are loaded."""
        return LTXVModels(self.variant, self.dtype)

    def text_origin(self, hashes: Mapping[str, str]) -> dict[str, Any]:
        """Return the hash of the text encoder and the bits of its matrices."""
        return {"text_encoder": hashes["text_encoder"], "bits": self.variant.bits.get("text_encoder")}

    def embed(
        self, prompt: str, negative_prompt: str | None = "", known: Mapping[str, np.ndarray] | None = None
    ) -> PromptEmbeddings:
        """Return the embeddings of both texts, or of the first alone, unpadded.

        Args:
            prompt: The prompt.
            negative_prompt: The negative prompt, or None.
            known: Embeddings (1, N, D) of texts that need not be encoded, by text.
        """
        models = self.models

        def encode(text: str) -> tuple[np.ndarray, np.ndarray]:
            if known and text in known:
                return known[text], np.ones(known[text].shape[:2], np.int32)
            embedding = self._embed(text, models.text_encoder)
            return embedding, np.ones(embedding.shape[:2], np.int32)

        return PromptEmbeddings(*encode(prompt), *(() if negative_prompt is None else encode(negative_prompt)))

    def embed_during_decode(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Return embeddings (1, N, D) of texts of a later render, between two events of this one's decode.

        The result is empty where the text encoder is not in memory, or has no room there.

        Raises:
            OutOfMemory: Memory ran out nevertheless.
        """
        text_encoder = self.models.text_encoder_during_decode()
        if text_encoder is None:
            return {}
        try:
            return {text: self._embed(text, text_encoder) for text in texts}
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(f"memory ran out for the text encoder during the decode: {error}") from error

    def _embed(self, text: str, text_encoder: T5Encoder) -> np.ndarray:
        ids = mx.array([self.models.tokenizer.encode(text)])
        embedding = _to_numpy(text_encoder(ids, mx.ones(ids.shape, mx.int32)))
        return require_finite(embedding, "the text's embeddings")

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a text, the end token included; the text encoder reads the first 256."""
        return self.models.tokenizer.count(text)

    def text_shape(self, text: str) -> tuple[int, int, int]:
        """Return the shape (1, N, D) of a text's embeddings, without the text encoder."""
        return 1, len(self.models.tokenizer.encode(text)), self.models.transformer_config.caption_channels

    def encode(self, frames: np.ndarray) -> np.ndarray:
        """Encode frames to normalized latents, float32 (1, C, n+1, H/32, W/32), the mean that the VAE's encoder gives.

        Args:
            frames: (8n+1, H, W, 3), uint8 or floats in [0, 1], H and W multiples of 32.

        Raises:
            InvalidRequest: The frames have another shape.
            CheckpointError: The checkpoint has no encoder, or is damaged.
            NotFinite: The result has NaN or infinite values.
        """
        if frames.ndim != 4 or frames.shape[0] % FRAME_STRIDE != 1 or any(n % SIZE_STRIDE for n in frames.shape[1:3]):
            raise InvalidRequest(
                f"the shape {tuple(frames.shape)} of the frames is invalid; use (8n+1, H, W, 3), with H and W multiples"
                f" of {SIZE_STRIDE}"
            )
        pixels = frames.astype(np.float32)
        if frames.dtype == np.uint8:
            pixels /= 255
        pixels *= 2
        pixels -= 1
        array = mx.array(pixels[None])
        del pixels
        return require_finite(_to_numpy(self.models.vae_encoder.encode(array)), "the latents of a picture or a clip")

    def decode(
        self,
        latents: np.ndarray,
        *,
        timestep: float,
        noise_scale: float = 0.0,
        noise: np.ndarray | None = None,
        seed: int = 0,
    ) -> np.ndarray:
        """Decode normalized latents (1, C, F, H, W) to pixels (8(F-1)+1, 32H, 32W, 3), float32 in [0, 1].

        Args:
            latents: The latents.
            timestep: The timestep that a VAE with timestep conditioning is given, 0 to 1.
            noise_scale: s in z(1-s) + noise·s, which such a VAE decodes.
            noise: That noise, in the shape of the latents; None mixes in none.
            seed: The seed of the noise that a VAE of the 0.9.1 layout injects between its layers.
        """
        return np.concatenate(list(self._decode(latents, timestep, noise_scale, noise, seed, convert=to_floats)))

    def _decode(
        self,
        latents: np.ndarray,
        timestep: float,
        noise_scale: float,
        noise: np.ndarray | None,
        seed: int,
        *,
        convert: Callable[[mx.array], mx.array],
    ) -> Iterator[np.ndarray]:
        vae = self.models.vae
        z = mx.array(latents, mx.float32)
        if vae.config.timestep_conditioning and noise is not None:
            z = z * (1 - noise_scale) + mx.array(noise) * noise_scale
        plans = self.models.decode_plans(LatentSize(*latents.shape[2:]))
        return vae.decode_chunks(z, timestep, plans, convert, seed)

    def stream(
        self,
        request: GenerationRequest,
        *,
        noise: np.ndarray | None = None,
        decode_noise: np.ndarray | None = None,
        embeddings: PromptEmbeddings | None = None,
        known_texts: Mapping[str, np.ndarray] | None = None,
        latents: np.ndarray | None = None,
        conditioning_latents: Sequence[np.ndarray] | None = None,
        conditioning_noise: Sequence[np.ndarray] | None = None,
        resume: ResumePoint | None = None,
        job: str = "",
        checkpoint_every: int = 0,
    ) -> Generator[Event, None, None]:
        """Render `request`, and yield what happens as it happens; see `ltx_models.events`.

        The caller drives: between two events nothing runs, and closing the generator ends the render.

        Args:
            request: The request; what is None in it takes the variant's value.
            noise: The initial noise (1, C, F, H, W), in place of the seed's own.
            decode_noise: The decoder's noise, likewise.
            embeddings: Embeddings, in place of encoding the texts.
            known_texts: Embeddings (1, N, D) by text, for texts of this request that need no encoding.
            latents: A video to begin with, (1, C, F, H, W), into which the noise is mixed as the first timestep says;
                with skip_first_steps, since at timestep 1 nothing is left of it.
            conditioning_latents: Latents of each item of `request.conditioning`, in place of reading and encoding its
                file.
            conditioning_noise: Noise for each item that adds tokens, in order and in the shape of its latents (of a
                clip the first two latent frames), in place of the seed's own.
            resume: The point to continue from, of an earlier Stepped of the same request (its seed given): the frames
                are the same, bit for bit, as if the render had not stopped.
            job: What the caller identifies the request by, such as a digest of it; points of another are refused.
            checkpoint_every: The interval of Previewed events in steps, none after the last step; 0 for no previews.
                One comes when the next step is done, since it is decoded meanwhile.

        Raises:
            InvalidRequest: A value is invalid, or `resume` is of another request or model (ResumeMismatch). This,
                CheckpointError and MediaError come at the first event.
            CheckpointError: A file is missing or damaged.
            MediaError: A picture or clip cannot be read.
            NotFinite: The next event's result has NaN or infinite values.
        """
        provenance = self.provenance(job)
        if resume is not None:
            resume.require(provenance)
        models = self.models
        request = request.resolve(self.variant)
        models.expect(request)
        shape = latent_shape(request, models.transformer_config.in_channels)
        assert request.seed is not None
        noise = draw_noise(request.seed, INITIAL_NOISE, shape) if noise is None else noise
        decode_noise = draw_noise(request.seed, DECODE_NOISE, shape) if decode_noise is None else decode_noise
        for name, array in (("noise", noise), ("decode noise", decode_noise), ("latents", latents)):
            if array is not None:
                _check_shape(name, array, shape)
        schedule = self._schedule(request, shape)
        if latents is not None:
            noise = schedule[0][0] * noise + (1 - schedule[0][0]) * latents
        elif request.skip_first_steps:
            raise InvalidRequest("the first steps can only be skipped where there are latents to begin with")
        if conditioning_latents is None:
            conditioning_latents = yield from self._encode_items(request)
        canvas = self._canvas(request, noise, conditioning_latents, conditioning_noise)
        if resume is not None:
            _check_resume(resume, shape, canvas, len(schedule))
        yield StageBegan(TEXT.name)
        began = time.perf_counter()
        if embeddings is None:
            negative = request.negative_prompt if request.uses_negative_prompt else None
            embeddings = self.embed(request.prompt, negative, known_texts)
        _check_embeddings(embeddings, models.transformer_config.caption_channels, request)
        yield TextEncoded(embeddings)
        texts = len(request.texts)
        yield Progress(TEXT.name, texts, texts, time.perf_counter() - began)

        yield StageBegan(DENOISE.name)
        steps = Denoiser(models.transformer, request, schedule, embeddings, provenance).run(canvas, shape, resume)
        end = yield from with_previews(steps, models.vae_during_denoise, request, shape, checkpoint_every)
        del steps  # and with them the transformer, if the VAE needs its place
        denoised = end.arrays[LATENTS]
        frames = yield from self._decode_frames(request, denoised, decode_noise)
        scheduler = None if request.timesteps else models.scheduler
        yield Finished(RenderResult(frames, denoised, request, scheduler=scheduler))

    def _decode_frames(
        self, request: GenerationRequest, latents: np.ndarray, noise: np.ndarray
    ) -> Generator[Event, None, np.ndarray]:
        """Run the stage "decode", and return all frames, uint8 (F, H, W, 3)."""
        assert request.decode_timestep is not None
        assert request.decode_noise_scale is not None
        assert request.num_frames and request.height and request.width
        assert request.seed is not None
        frames = np.empty((request.num_frames, request.height, request.width, 3), np.uint8)
        yield StageBegan(DECODE.name)
        start, began = 0, time.perf_counter()
        convert = CheckedConversion(to_uint8)
        for part in self._decode(
            latents, request.decode_timestep, request.decode_noise_scale, noise, request.seed, convert=convert
        ):
            convert.check()
            stop = start + len(part)
            frames[start:stop] = part
            seconds = time.perf_counter() - began
            yield FramesDecoded(start, frames[start:stop])
            yield Progress(DECODE.name, stop, len(frames), seconds)
            start, began = stop, time.perf_counter()
        convert.check(all_done=True)
        yield Decoded(frames)
        return frames

    def _schedule(self, request: GenerationRequest, shape: LatentShape) -> Schedule:
        assert request.num_steps
        timesteps = request.timesteps or sample_timesteps(
            self.models.scheduler, request.num_steps, num_tokens=shape[2] * shape[3] * shape[4]
        )
        return schedule_steps(timesteps, request.skip_first_steps or 0, request.skip_last_steps or 0)

    def _encode_items(self, request: GenerationRequest) -> Generator[Event, None, list[np.ndarray]]:
        """Return the latents of the request's pictures and clips, which are read one after another."""
        items = request.conditioning
        if items:
            _ = self.models.vae_encoder  # before anything is read, so that other models have made room for both
        encoded = []
        for number, item in enumerate(items, 1):
            spans: list[Span] = []
            reading = read_item(item, request, spans.append)
            part = 0.0
            while True:
                yield InputRead(item.kind, number, len(items), part, "".join(map(str, spans)))
                try:
                    part = next(reading)
                except StopIteration as end:
                    encoded.append(self.encode(end.value))
                    break
        return encoded

    def _canvas(
        self,
        request: GenerationRequest,
        latents: np.ndarray,
        encoded: Sequence[np.ndarray],
        noise: Sequence[np.ndarray] | None,
    ) -> Canvas:
        """Return the initial latents with the request's pictures and clips, placed in them or as extra tokens."""
        seed = request.seed
        assert seed is not None
        if len(encoded) != len(request.conditioning):
            raise InvalidRequest(
                f"{len(encoded)} latents were given for {len(request.conditioning)} conditioning items"
            )

        def draw(index: int, shape: tuple[int, ...]) -> np.ndarray:
            if noise is None:
                return draw_noise(seed, CONDITIONING_NOISE, shape, index)
            if index >= len(noise):
                raise InvalidRequest(f"{len(noise)} conditioning noises were given; item {index + 1} needs one too")
            _check_shape("conditioning noise", noise[index], shape)
            return noise[index]

        causal = self.models.transformer_config.causal_temporal_positioning
        return place(latents, list(zip(request.conditioning, encoded, strict=True)), draw, causal=causal)


def _check_shape(name: str, value: np.ndarray, shape: tuple[int, ...]) -> None:
    if tuple(value.shape) != shape:
        raise InvalidRequest(f"the {name} has the shape {tuple(value.shape)}; this request needs {shape}")


def _check_resume(resume: ResumePoint, shape: LatentShape, canvas: Canvas, steps: int) -> None:
    """Raise ResumeMismatch unless the point is after a step of this request, with the arrays that its steps need."""
    if resume.stage != DENOISE.name:
        raise ResumeMismatch(f"the resume point is of the stage {resume.stage!a}; only {DENOISE.name} has one here")
    extra = resume.arrays[EXTRA].shape[1] if EXTRA in resume.arrays and resume.arrays[EXTRA].ndim == 3 else 0
    if extra != canvas.extra:
        raise ResumeMismatch(f"the resume point has {extra} extra tokens; this request needs {canvas.extra}")
    needed = {LATENTS: shape, **({EXTRA: (1, extra, shape[1])} if extra else {})}
    if resume.arrays.keys() != needed.keys():
        raise ResumeMismatch(f"the resume point has the arrays {_names(resume.arrays)}; {_names(needed)} are needed")
    for name, array in resume.arrays.items():
        if tuple(array.shape) != needed[name]:
            raise ResumeMismatch(
                f"the resume point's {name} have the shape {tuple(array.shape)}; this request needs {needed[name]}"
            )
        if array.dtype != np.float32:
            raise ResumeMismatch(f"the resume point's {name} are of the type {array.dtype}; float32 is needed")
    if not 0 < resume.step <= steps:
        raise ResumeMismatch(f"the resume point is after step {resume.step} of {steps}")


def _names(arrays: Mapping[str, object]) -> str:
    return ", ".join(map(ascii, sorted(arrays)))


def _check_embeddings(embeddings: PromptEmbeddings, channels: int, request: GenerationRequest) -> None:
    for name in ("prompt", "negative") if request.uses_negative_prompt else ("prompt",):
        text, mask = getattr(embeddings, name), getattr(embeddings, f"{name}_mask")
        if text is None or mask is None:
            raise InvalidRequest(f"the {name}'s embeddings are missing; with guidance this model needs them")
        if text.shape != (1, mask.shape[-1], channels) or mask.shape[0] != 1:
            raise InvalidRequest(
                f"the {name}'s embeddings have the shape {tuple(text.shape)} and their mask {tuple(mask.shape)}; this"
                f" model needs (1, N, {channels}) and (1, N)"
            )


def _to_numpy(array: mx.array) -> np.ndarray:
    return np.array(array.astype(mx.float32))
