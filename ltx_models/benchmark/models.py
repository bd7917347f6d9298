"""Build the models of a variant with random weights: they take the real ones' time and memory, and no download."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ltx_models.checkpoint import load_weights
from ltx_models.families.architectures import Architecture
from ltx_models.families.variants import Variant
from ltx_models.layers.quantization import TEXT_ENCODER_MATRICES, TRANSFORMER_MATRICES, Quantization
from ltx_models.text_encoders.t5 import T5Config, T5Encoder
from ltx_models.transformers.ltxv import Transformer, TransformerConfig
from ltx_models.vae.model import MEAN, STATISTICS, STD, VAE, VAEConfig

__all__ = ["RandomModels", "random_models", "random_text_encoder", "random_transformer", "random_vae"]

TEXT_HEAD_DIM = 64
SOURCE = Path("random weights")


@dataclass(frozen=True)
class RandomModels:
    """The models that every render uses."""

    text_encoder: T5Encoder
    transformer: Transformer
    vae: VAE


def random_models(variant: Variant, dtype: mx.Dtype) -> RandomModels:
    """Return all models of a variant, in its precision."""
    model = variant.architecture
    text_dtype = mx.bfloat16 if dtype == mx.float16 else dtype
    return RandomModels(
        random_text_encoder(model, text_dtype, variant.quantize_text_encoder),
        random_transformer(model, dtype, variant.quantize_transformer, fp8=variant.checkpoint_bits == 8),
        random_vae(model, dtype),
    )


def random_transformer(
    architecture: Architecture, dtype: mx.Dtype, bits: int | None = None, *, fp8: bool = False
) -> Transformer:
    """Return a transformer, its blocks' matrices quantized to `bits`, or stored in fp8, if given."""
    model = Transformer(
        TransformerConfig(
            num_attention_heads=architecture.heads,
            attention_head_dim=architecture.width // architecture.heads,
            num_layers=architecture.layers,
            in_channels=architecture.latent_channels,
            out_channels=architecture.latent_channels,
            caption_channels=architecture.caption_channels,
            causal_temporal_positioning=True,
        )
    )
    quantization = Quantization(bits=bits, layers=TRANSFORMER_MATRICES) if bits else None
    weights = _random(model)
    if fp8 and not bits:
        for name, value in weights.items():
            if re.fullmatch(rf"{TRANSFORMER_MATRICES}\.weight", name):
                weights[name] = mx.to_fp8(value)
    load_weights(model, weights, source=SOURCE, dtype=dtype, quantization=quantization)
    model.fuse()
    return model


def random_vae(architecture: Architecture, dtype: mx.Dtype) -> VAE:
    """Return a decoder of the blocks of 0.9.5 to 0.9.8: residual ones, and upsamplers with a residual in between."""
    blocks: list[tuple[str, Any]] = []
    levels = architecture.decoder_levels[::-1]
    for (channels, layers), (wider, _) in zip(levels, (*levels[1:], levels[-1]), strict=True):
        blocks.append(("res_x", {"num_layers": layers}))
        blocks.append(("compress_all", {"residual": True, "multiplier": wider // channels}))
    config = VAEConfig(
        latent_channels=architecture.latent_channels,
        decoder_blocks=blocks[:-1],
        decoder_base_channels=architecture.decoder_levels[-1][0],
        timestep_conditioning=True,
    )
    model = VAE(config)
    weights = _random(model)
    weights[f"{STATISTICS}.{STD}"] = mx.ones_like(weights[f"{STATISTICS}.{STD}"])
    weights[f"{STATISTICS}.{MEAN}"] = mx.zeros_like(weights[f"{STATISTICS}.{MEAN}"])
    load_weights(model, weights, source=SOURCE, dtype=dtype, float32=STATISTICS)
    return model


def random_text_encoder(architecture: Architecture, dtype: mx.Dtype, bits: int | None = None) -> T5Encoder:
    """Return a T5 encoder, its blocks' matrices quantized to `bits`, if given."""
    model = T5Encoder(
        T5Config(
            vocab_size=architecture.vocabulary,
            d_model=architecture.text_width,
            d_kv=TEXT_HEAD_DIM,
            d_ff=architecture.text_hidden,
            num_layers=architecture.text_layers,
            num_heads=architecture.text_inner // TEXT_HEAD_DIM,
        )
    )
    quantization = Quantization(bits=bits, layers=TEXT_ENCODER_MATRICES) if bits else None
    load_weights(model, _random(model), source=SOURCE, dtype=dtype, quantization=quantization)
    return model


def _random(model: nn.Module) -> dict[str, mx.array]:
    """Return random parameters, not evaluated.

    Matrices and convolutions are N(0, 1/fan_in), norms 1, biases and tables small, which keeps activations near unit
    size.
    """
    parameters: Any = tree_flatten(model.parameters())
    weights = {}
    for index, (name, value) in enumerate(parameters):
        if "norm" in name and value.ndim == 1:
            weights[name] = mx.ones(value.shape)
        elif value.ndim == 0:
            weights[name] = value
        else:
            scale = (value.size / value.shape[0]) ** -0.5 if value.ndim in (2, 5) else 0.02
            weights[name] = scale * mx.random.normal(value.shape, key=mx.random.key(index))
    return weights
