"""LTXPipeline: a request becomes a video."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Generator, Sequence
from functools import cached_property
from pathlib import Path

import mlx.core as mx
import numpy as np
from PIL import Image

from ltx_models.checkpoint import file_hash, open_checkpoint, parse_config
from ltx_models.errors import CheckpointError, InvalidRequest
from ltx_models.events import (
    Decoded,
    Event,
    Finished,
    Previewed,
    PromptEmbeddings,
    RenderResult,
    ResumePoint,
    Stepped,
    TextEncoded,
)
from ltx_models.guidance import classifier_free_guidance
from ltx_models.latents import (
    DECODE_NOISE,
    INITIAL_NOISE,
    LatentShape,
    draw_noise,
    from_tokens,
    latent_shape,
    to_tokens,
)
from ltx_models.model_files import find_files
from ltx_models.request import GenerationRequest
from ltx_models.scheduler import SchedulerConfig, euler_step, predict_x0, sample_timesteps
from ltx_models.text_encoder import T5Encoder, load_text_encoder, text_encoder_files
from ltx_models.tokenizer import Tokenizer
from ltx_models.transformer import Conditioning, Transformer, load_transformer, pixel_coordinates
from ltx_models.vae import VAE, load_vae
from ltx_models.variants import UNLISTED, Variant, find_variant

__all__ = ["LTXPipeline"]


@dataclasses.dataclass(frozen=True)
class _Models:
    tokenizer: Tokenizer
    text_encoder: T5Encoder
    transformer: Transformer
    vae: VAE
    scheduler: SchedulerConfig


class LTXPipeline:
    """One variant's models, and the renders made with them. Not for use from several threads at once.

    variant: a name in `ltx_models.variants`.
    dtype: of weights and activations; by default bfloat16 on a GPU, float32 on a CPU, which has no fast bfloat16.

    Nothing is loaded before `load_models`, which the first render calls. Raises UnknownVariant.
    """

    def __init__(self, variant: str = "pocket", *, dtype: mx.Dtype | None = None) -> None:
        self._set(find_variant(variant), dtype)

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
        """A pipeline of any 0.9.x files, with LTX-Video's usual values for what a request leaves open.

        checkpoint: an official single file, a diffusers folder, or one that `ltx models convert` wrote.
        text_encoder: a Hugging Face T5 folder.  tokenizer: a `spiece.model`.
        quantize_transformer, quantize_text_encoder: 8 or 4 bits, or None.
        """
        pipeline = cls.__new__(cls)
        variant = dataclasses.replace(
            UNLISTED,
            checkpoint=str(Path(checkpoint).absolute()),
            text_encoder=str(Path(text_encoder).absolute()),
            tokenizer=str(Path(tokenizer).absolute()),
            quantize_transformer=quantize_transformer,
            quantize_text_encoder=quantize_text_encoder,
        )
        pipeline._set(variant, dtype)
        return pipeline

    def _set(self, variant: Variant, dtype: mx.Dtype | None) -> None:
        on_gpu = mx.default_device() == mx.Device(mx.gpu)
        self.variant = variant
        self.dtype = dtype or (mx.bfloat16 if on_gpu else mx.float32)
        self._loaded: _Models | None = None

    @cached_property
    def checkpoint_hash(self) -> str:
        """SHA-256 of the checkpoint's files: what a render was made with."""
        return file_hash(open_checkpoint(find_files(self.variant).checkpoint).files)

    @cached_property
    def text_encoder_hash(self) -> str:
        """SHA-256 of the text encoder's and the tokenizer's files: what embeddings were made with."""
        files = find_files(self.variant)
        return file_hash([*text_encoder_files(files.text_encoder), files.tokenizer])

    def load_models(self, progress_callback: Callable[[float, str], None] | None = None) -> None:
        """Read all models, unless they are loaded. `progress_callback` gets the fraction done and what comes next.

        Raises CheckpointError.
        """
        self._models_loaded(progress_callback)

    def _models_loaded(self, progress_callback: Callable[[float, str], None] | None = None) -> _Models:
        if self._loaded is None:
            report = progress_callback or (lambda _fraction, _message: None)
            report(0.0, "loading the text encoder")
            files = find_files(self.variant)
            tokenizer = Tokenizer(files.tokenizer)
            text_encoder = load_text_encoder(files.text_encoder, self.dtype, self.variant.quantize_text_encoder)
            report(0.4, "loading the transformer")
            file = open_checkpoint(files.checkpoint)
            scheduler_source = f"the scheduler config of {file.path}"
            scheduler = parse_config(SchedulerConfig, file.section("scheduler"), {}, source=scheduler_source)
            transformer = load_transformer(file, self.dtype, self.variant.quantize_transformer)
            if transformer.config.caption_channels != text_encoder.config.d_model:
                raise CheckpointError(
                    f"the text encoder {files.text_encoder} makes embeddings of {text_encoder.config.d_model}"
                    f" channels; {file.path} was trained with {transformer.config.caption_channels}"
                )
            report(0.8, "loading the VAE")
            vae = load_vae(file, self.dtype)
            self._loaded = _Models(tokenizer, text_encoder, transformer, vae, scheduler)
            report(1.0, "all models are loaded")
        return self._loaded

    def clear_all(self) -> None:
        """Free the models and MLX's cache. The next render loads them again."""
        self._loaded = None
        mx.clear_cache()

    def embed(self, prompt: str, negative_prompt: str = "") -> PromptEmbeddings:
        """Both texts through the text encoder, unpadded."""
        models = self._models_loaded()

        def encode(text: str) -> tuple[np.ndarray, np.ndarray]:
            ids = mx.array([models.tokenizer.encode(text)])
            mask = mx.ones(ids.shape, mx.int32)
            return _to_numpy(models.text_encoder(ids, mask)), np.ones(ids.shape, np.int32)

        return PromptEmbeddings(*encode(prompt), *encode(negative_prompt))

    def decode(
        self, latents: np.ndarray, *, timestep: float, noise_scale: float = 0.0, noise: np.ndarray | None = None
    ) -> np.ndarray:
        """Normalized latents (1, C, F, H, W) → pixels (8(F-1)+1, 32H, 32W, 3), float32 in [0, 1].

        A VAE with timestep conditioning gets z(1-s) + noise·s, where s is `noise_scale`, and the timestep.
        """
        vae = self._models_loaded().vae
        z = mx.array(latents, mx.float32)
        if vae.config.timestep_conditioning and noise is not None:
            z = z * (1 - noise_scale) + mx.array(noise) * noise_scale
        pixels = vae.decode(z, timestep)[0].astype(mx.float32)
        return _to_numpy(mx.clip(pixels / 2 + 0.5, 0, 1))

    def stream(
        self,
        request: GenerationRequest,
        *,
        noise: np.ndarray | None = None,
        decode_noise: np.ndarray | None = None,
        embeddings: PromptEmbeddings | None = None,
        resume: ResumePoint | None = None,
        checkpoint_every: int = 0,
    ) -> Generator[Event, None, None]:
        """Render `request`, yielding what happens as it happens; see `ltx_models.events`.

        The caller drives: between two events nothing runs, and closing the generator ends the render.

        noise, decode_noise: the initial noise and the decoder's, (1, C, F, H, W), in place of the seed's own.
        embeddings: in place of encoding the prompts.
        resume: where to go on, from an earlier Stepped of the same request (its seed given): the frames are the same,
        bit for bit, as if the render had not stopped.
        checkpoint_every: a Previewed after every so many steps, but not after the last; 0 for none.

        Raises InvalidRequest and CheckpointError, at the first event.
        """
        models = self._models_loaded()
        request = request.resolve(self.variant)
        shape = latent_shape(request, models.transformer.config.in_channels)
        assert request.seed is not None
        noise = draw_noise(request.seed, INITIAL_NOISE, shape) if noise is None else noise
        decode_noise = draw_noise(request.seed, DECODE_NOISE, shape) if decode_noise is None else decode_noise
        resume = resume or ResumePoint(0, noise)
        for name, array in (("noise", noise), ("decode noise", decode_noise), ("resume point", resume.latents)):
            _check_shape(name, array, shape)
        assert request.num_steps
        timesteps = request.timesteps or sample_timesteps(
            models.scheduler, request.num_steps, num_tokens=shape[2] * shape[3] * shape[4]
        )
        if not 0 <= resume.step <= len(timesteps):
            raise InvalidRequest(f"the resume point is after step {resume.step} of {len(timesteps)}")
        if embeddings is None:
            assert request.negative_prompt is not None
            embeddings = self.embed(request.prompt, request.negative_prompt)
        _check_embeddings(embeddings, models.transformer.config.caption_channels)
        yield TextEncoded(embeddings)

        resume = yield from self._denoise(request, timesteps, embeddings, resume, checkpoint_every)

        assert request.decode_timestep is not None
        assert request.decode_noise_scale is not None
        pixels = self.decode(
            resume.latents,
            timestep=request.decode_timestep,
            noise_scale=request.decode_noise_scale,
            noise=decode_noise,
        )
        frames = _to_uint8(pixels)
        yield Decoded(frames)
        yield Finished(RenderResult(frames, resume.latents, request))

    def generate_video(
        self,
        prompt: str,
        negative_prompt: str | None = None,
        width: int | None = None,
        height: int | None = None,
        num_frames: int | None = None,
        num_steps: int | None = None,
        guidance: float | None = None,
        seed: int | None = None,
        *,
        frame_rate: float | None = None,
        checkpoint_every: int = 1,
        on_progress: Callable[[int, int], None] | None = None,
        on_checkpoint: Callable[[int, Image.Image], None] | None = None,
    ) -> RenderResult:
        """Render one video and wait for it. What is None takes the variant's value.

        on_progress: called with the step and the number of steps.  on_checkpoint: with the step and a PIL RGB image,
        after every `checkpoint_every` steps.
        """
        request = GenerationRequest(
            prompt=prompt,
            negative_prompt=negative_prompt,
            width=width,
            height=height,
            num_frames=num_frames,
            num_steps=num_steps,
            guidance_scale=guidance,
            frame_rate=frame_rate,
            seed=seed,
        )
        for event in self.stream(request, checkpoint_every=checkpoint_every if on_checkpoint else 0):
            if isinstance(event, Stepped) and on_progress:
                on_progress(event.step, event.steps)
            elif isinstance(event, Previewed) and on_checkpoint:
                on_checkpoint(event.step, event.image)
            elif isinstance(event, Finished):
                return event.result
        raise AssertionError("the stream ended without a result")

    def _denoise(
        self,
        request: GenerationRequest,
        timesteps: Sequence[float],
        embeddings: PromptEmbeddings,
        resume: ResumePoint,
        checkpoint_every: int,
    ) -> Generator[Event, None, ResumePoint]:
        """The steps that `resume` leaves to do; returns where the last one ended."""
        transformer = self._models_loaded().transformer
        shape = latent_shape(request, transformer.config.in_channels)
        conditioning = _condition(transformer, request, embeddings, shape)
        tokens = to_tokens(resume.latents)
        steps = len(timesteps)
        for step in range(resume.step + 1, steps + 1):
            started = time.perf_counter()
            timestep, next_timestep = timesteps[step - 1], timesteps[step] if step < steps else 0.0
            velocity = _velocity(transformer, request, tokens, timestep, conditioning)
            x0 = predict_x0(tokens, velocity, timestep)
            tokens = euler_step(tokens, velocity, timestep, next_timestep)
            mx.eval(tokens)
            seconds = time.perf_counter() - started
            resume = ResumePoint(step, from_tokens(tokens, shape))
            yield Stepped(step, steps, timestep, seconds, resume)
            if checkpoint_every and step % checkpoint_every == 0 and step < steps:
                yield Previewed(step, self._preview(from_tokens(x0, shape), request))
        return resume

    def _preview(self, x0: np.ndarray, request: GenerationRequest) -> Image.Image:
        assert request.decode_timestep is not None
        middle = x0.shape[2] // 2
        pixels = self.decode(x0[:, :, middle : middle + 1], timestep=request.decode_timestep)
        return Image.fromarray(_to_uint8(pixels[0]))


def _condition(
    transformer: Transformer, request: GenerationRequest, embeddings: PromptEmbeddings, shape: LatentShape
) -> Conditioning:
    """What all steps share: where the tokens lie, and the texts, the negative one first where it is used."""
    assert request.frame_rate
    rows = [(embeddings.prompt, embeddings.prompt_mask)]
    if _is_guided(request):
        rows.insert(0, (embeddings.negative, embeddings.negative_mask))
    text, mask = _text_batch(rows)
    causal = transformer.config.causal_temporal_positioning
    return transformer.prepare(text, mask, pixel_coordinates(*shape[2:], causal=causal), request.frame_rate)


def _velocity(
    transformer: Transformer,
    request: GenerationRequest,
    tokens: mx.array,
    timestep: float,
    conditioning: Conditioning,
) -> mx.array:
    """The guided velocity at `timestep`, (1, N, C) float32: guidance and latents keep that precision."""
    guided = _is_guided(request)
    batch = mx.concatenate([tokens, tokens]) if guided else tokens
    velocity = transformer(batch, mx.full((len(batch),), timestep), conditioning).astype(mx.float32)
    if not guided:
        return velocity
    assert request.guidance_scale
    return classifier_free_guidance(velocity[:1], velocity[1:], request.guidance_scale)


def _is_guided(request: GenerationRequest) -> bool:
    assert request.guidance_scale
    return request.guidance_scale > 1


def _check_shape(name: str, value: np.ndarray, shape: tuple[int, ...]) -> None:
    if tuple(value.shape) != shape:
        raise InvalidRequest(f"the {name} has the shape {tuple(value.shape)}; this request needs {shape}")


def _check_embeddings(embeddings: PromptEmbeddings, channels: int) -> None:
    for name in ("prompt", "negative"):
        text, mask = getattr(embeddings, name), getattr(embeddings, f"{name}_mask")
        if text.shape != (1, mask.shape[-1], channels) or mask.shape[0] != 1:
            raise InvalidRequest(
                f"the {name}'s embeddings have the shape {tuple(text.shape)} and their mask {tuple(mask.shape)}; this"
                f" model needs (1, N, {channels}) and (1, N)"
            )


def _text_batch(rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[mx.array, mx.array | None]:
    """Embeddings (1, N, D) with their masks (1, N) as one batch (B, S, D), with its mask where rows differ in length.

    Attention to text knows no positions, so padding inside the rows is cut out.
    """
    texts = [np.asarray(embedding)[0][np.asarray(mask)[0] > 0] for embedding, mask in rows]
    lengths = [len(text) for text in texts]
    longest = max(lengths)
    batch = np.stack([np.pad(text, ((0, longest - len(text)), (0, 0))) for text in texts])
    if min(lengths) == longest:
        return mx.array(batch), None
    return mx.array(batch), mx.arange(longest) < mx.array(lengths)[:, None]


def _to_numpy(array: mx.array) -> np.ndarray:
    return np.array(array.astype(mx.float32))


def _to_uint8(pixels: np.ndarray) -> np.ndarray:
    return np.round(pixels * 255).astype(np.uint8)
