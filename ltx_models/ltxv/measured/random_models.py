"""Build LTX-Video's networks with random weights: they take the real ones' time and memory, and no download."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import mlx.core as mx

from ltx_models.benchmark.weights import random_weights
from ltx_models.checkpoint import load_weights
from ltx_models.families.architectures import Architecture
from ltx_models.families.ltxv import TEXT_ENCODER_MATRICES, TRANSFORMER_MATRICES
from ltx_models.layers.quantization import Quantization
from ltx_models.text_encoders.t5 import T5Config, T5Encoder
from ltx_models.transformers.ltxv import Transformer, TransformerConfig
from ltx_models.vae.model import MEAN, STATISTICS, STD, VAE, VAEConfig

__all__ = ["random_text_encoder", "random_transformer", "random_vae"]

TEXT_HEAD_DIM = 64
SOURCE = Path("random weights")


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
    weights = random_weights(model)
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
    weights = random_weights(model)
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
    load_weights(model, random_weights(model), source=SOURCE, dtype=dtype, quantization=quantization)
    return model
