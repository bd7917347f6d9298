"""Measure LTX-Video: text encoding, calls of the transformer, decodes, previews, and renders of these."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import mlx.core as mx
import numpy as np

from ltx_models.benchmark.bench import Bench
from ltx_models.benchmark.measure import Measurement
from ltx_models.events import PromptEmbeddings, Stepped
from ltx_models.families.ltxv import TEXT_TOKENS
from ltx_models.ltxv.measured.random_models import random_text_encoder, random_transformer, random_vae
from ltx_models.memory import DecodePlan, LatentSize, latent_size
from ltx_models.pipeline.preview import with_previews
from ltx_models.sampling.conditioning import Canvas
from ltx_models.sampling.denoise import LATENTS, Denoiser, schedule_steps
from ltx_models.sampling.latents import LatentShape, latent_shape, to_tokens
from ltx_models.text_encoders.t5 import T5Encoder
from ltx_models.transformers.ltxv import Perturbation, Transformer, pixel_coordinates
from ltx_models.vae import VAE, to_uint8

__all__ = ["PROMPT_TOKENS", "LTXVBench"]

PROMPT_TOKENS = 128
"""The number of tokens of a prompt of a few sentences."""
TIMESTEP = 0.7
SMALL = LatentSize(4, 16, 16)
"""512x512x25: few tokens, so that the time outside of matrix products shows."""


class LTXVBench(Bench):
    """LTX-Video's text encoder, transformer and VAE with random weights."""

    phases: ClassVar[Mapping[str, str]] = {"text": "text_encoder", "denoise": "transformer", "decode": "vae"}
    texts = "text"
    previewed = "denoise"

    def build(self, dtype: mx.Dtype) -> None:
        """Make all networks of the variant, in its precision."""
        variant, architecture = self.variant, self.variant.architecture
        text_dtype = mx.bfloat16 if dtype == mx.float16 else dtype
        self.text_encoder = random_text_encoder(architecture, text_dtype, variant.bits.get("text_encoder"))
        self.transformer = random_transformer(
            architecture, dtype, variant.bits.get("transformer"), fp8=variant.checkpoint_bits == 8
        )
        self.vae = random_vae(architecture, dtype)
        self._shape = latent_shape(self.request, architecture.latent_channels)
        self._size = latent_size(self.request, variant.family.limits)
        self._text = self._embed()

    def parts(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        """Yield text encoding, a call of the transformer with and without guidance, the decode and a preview."""
        transformer, shape, size = self.transformer, self._shape, self._size
        yield f"text encoding, {TEXT_TOKENS} tokens", lambda: _encode(self.text_encoder, TEXT_TOKENS)
        yield f"DiT step, {size.tokens} tokens", _step(transformer, shape, guided=False)
        yield f"DiT step with CFG and STG, {size.tokens} tokens", _step(transformer, shape, guided=True)
        if size.tokens > SMALL.tokens:
            small = 1, shape[1], SMALL.frames, SMALL.height, SMALL.width
            yield f"DiT step, {SMALL.tokens} tokens", _step(transformer, small, guided=False)
        latents = mx.array(np.random.default_rng(0).standard_normal(shape, np.float32))
        yield "VAE decode", lambda: list(_decode(self.vae, latents, self.plans["vae"]))
        middle = mx.contiguous(latents[:, :, :1])
        yield "preview", lambda: self.vae.picture(middle, 0.05)

    def run(self, phase: str, given: Any = None, *, previews_every: int = 0) -> Any:
        """Run "text", "denoise" or "decode"."""
        if phase == "text":
            return self._embed()
        if phase == "denoise":
            return self._denoise(given or self._text, previews_every)
        for _ in _decode(self.vae, mx.array(given), self.plans["vae"]):
            pass  # a worker hands each part to the encoder
        return None

    def compare(self, runs: int) -> Iterator[Measurement]:
        """Measure diffusers' transformer and decoder. Raise ImportError without torch or diffusers."""
        from ltx_models.ltxv.measured.diffusers_bench import compare

        return compare(self.variant.architecture, self._size, runs)

    def release(self) -> None:
        """Free the networks."""
        del self.text_encoder, self.transformer, self.vae
        super().release()

    def _embed(self) -> PromptEmbeddings:
        text = _encode(self.text_encoder, PROMPT_TOKENS)
        mask = np.ones(text.shape[:2], np.int32)
        return PromptEmbeddings(text, mask, text, mask)

    def _denoise(self, text: PromptEmbeddings, previews_every: int) -> np.ndarray:
        transformer, request, shape = self.transformer, self.request, self._shape
        canvas = Canvas(
            to_tokens(np.random.default_rng(2).standard_normal(shape, np.float32)),
            pixel_coordinates(*shape[2:], causal=transformer.config.causal_temporal_positioning),
        )
        assert request.num_steps
        timesteps = request.timesteps or tuple(np.linspace(1, 1 / request.num_steps, request.num_steps).tolist())
        steps = Denoiser(transformer, request, schedule_steps(timesteps, 0, 0), text).run(canvas, shape)
        stream = with_previews(steps, lambda: self.vae, request, shape, previews_every)
        *_, last = (event for event in stream if isinstance(event, Stepped))
        return last.resume.arrays[LATENTS]


def _encode(text_encoder: T5Encoder, tokens: int) -> np.ndarray:
    """Return the embeddings of a text of `tokens` tokens, (1, tokens, D) float32."""
    ids = mx.arange(tokens)[None] % text_encoder.config.vocab_size
    return np.array(text_encoder(ids, mx.ones(ids.shape, mx.int32)).astype(mx.float32))


def _decode(vae: VAE, latents: mx.array, plan: DecodePlan) -> Iterator[np.ndarray]:
    """Yield the parts of a video, uint8 (n, H, W, 3), from latents (1, C, F, H, W)."""
    return vae.decode_chunks(latents, 0.05, [plan], to_uint8)


def _step(transformer: Transformer, shape: LatentShape, *, guided: bool) -> Callable[[], None]:
    """Return a call of the transformer: for the conditional sample alone, or for all three of guidance."""
    config = transformer.config
    text = mx.random.normal((1 + guided, PROMPT_TOKENS, config.caption_channels), key=mx.random.key(0))
    coordinates = pixel_coordinates(*shape[2:], causal=config.causal_temporal_positioning)
    conditioning = transformer.prepare(text, None, coordinates, 25.0)
    tokens = to_tokens(np.random.default_rng(1).standard_normal(shape, np.float32))
    perturbation = None
    if guided:
        conditioning, tokens = conditioning.select((0, 1, 1)), mx.concatenate([tokens, tokens])
        # Where the official configuration of 2B perturbs: block 19 of 28.
        perturbation = Perturbation("attention_values", (config.num_layers * 19 // 28,))
    return lambda: mx.eval(transformer(tokens, mx.array([[TIMESTEP]]), conditioning, perturbation))
