"""Measure the parts of a render, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import mlx.core as mx
import numpy as np

from ltx_models.benchmark.measure import Measurement, measure
from ltx_models.benchmark.models import RandomModels
from ltx_models.families.variants import Variant
from ltx_models.memory import TEXT_TOKENS, DecodePlan, LatentSize, decode_plans, latent_size
from ltx_models.request import GenerationRequest
from ltx_models.sampling.latents import LatentShape, latent_shape, to_tokens
from ltx_models.text_encoders.t5 import T5Encoder
from ltx_models.transformers.ltxv import Perturbation, Transformer, pixel_coordinates
from ltx_models.vae import VAE, to_uint8

__all__ = ["PROMPT_TOKENS", "decode", "encode", "measure_parts", "plan_of"]

PROMPT_TOKENS = 128
"""The number of tokens of a prompt of a few sentences."""
TIMESTEP = 0.7
SMALL = LatentSize(4, 16, 16)
"""512x512x25: few tokens, so that the time outside of matrix products shows."""


def measure_parts(
    variant: Variant, models: RandomModels, request: GenerationRequest, runs: int
) -> Iterator[Measurement]:
    """Measure text encoding, a call of the transformer with and without guidance, the decode and a preview."""
    channels = variant.architecture.latent_channels
    text_encoder, transformer, vae = models.text_encoder, models.transformer, models.vae
    yield measure(f"text encoding, {TEXT_TOKENS} tokens", lambda: encode(text_encoder, TEXT_TOKENS), runs)
    shape, size = latent_shape(request, channels), latent_size(request)
    yield measure(f"DiT step, {size.tokens} tokens", _step(transformer, shape, guided=False), runs)
    guided = f"DiT step with CFG and STG, {size.tokens} tokens"
    yield measure(guided, _step(transformer, shape, guided=True), runs)
    if size.tokens > SMALL.tokens:
        small = 1, channels, SMALL.frames, SMALL.height, SMALL.width
        yield measure(f"DiT step, {SMALL.tokens} tokens", _step(transformer, small, guided=False), runs)
    plan = plan_of(variant, request)
    latents = mx.array(np.random.default_rng(0).standard_normal(shape, np.float32))
    yield measure("VAE decode", lambda: list(decode(vae, latents, plan)), runs)
    middle = mx.contiguous(latents[:, :, :1])
    yield measure("preview", lambda: vae.picture(middle, 0.05), runs)


def plan_of(variant: Variant, request: GenerationRequest) -> DecodePlan:
    """Return the plan of a decode with all models resident."""
    left = variant.ram_gb * 10**9 - mx.get_active_memory()
    return next(decode_plans(variant.architecture, latent_size(request), left))


def encode(text_encoder: T5Encoder, tokens: int) -> np.ndarray:
    """Return the embeddings of a text of `tokens` tokens, (1, tokens, D) float32."""
    ids = mx.arange(tokens)[None] % text_encoder.config.vocab_size
    return np.array(text_encoder(ids, mx.ones(ids.shape, mx.int32)).astype(mx.float32))


def decode(vae: VAE, latents: mx.array, plan: DecodePlan) -> Iterator[np.ndarray]:
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
