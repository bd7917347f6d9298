"""The T5 v1.1 encoder (Raffel et al., 2020): token ids → text embeddings.

Attributes carry the names of the Hugging Face checkpoint, so no key needs mapping.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ltx_models.checkpoint import (
    Weights,
    build,
    check_weights,
    load_tensors,
    load_weights,
    parse_config,
    read_json,
    sharded_files,
)
from ltx_models.errors import CheckpointError
from ltx_models.families.ltxv import TEXT_ENCODER_MATRICES
from ltx_models.layers.fp8 import name_scales
from ltx_models.layers.pacing import Pace
from ltx_models.layers.quantization import Quantization

__all__ = [
    "T5Config",
    "T5Encoder",
    "check_text_encoder",
    "load_text_encoder",
    "text_encoder_config",
    "text_encoder_files",
    "text_encoder_weights",
]

MASKED = -1e9
"""The number that is added to the scores of padding: its weight underflows to exactly 0."""


@dataclass(frozen=True, kw_only=True)
class T5Config:
    """The fields of a Hugging Face T5 `config.json` that the encoder depends on."""

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_heads: int
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6


class SelfAttention(nn.Module):
    """Multi-head attention without bias and without the 1/√d scale, which T5 folds into its weights."""

    def __init__(self, config: T5Config, has_position_bias: bool) -> None:
        super().__init__()
        inner = config.num_heads * config.d_kv
        self.num_heads = config.num_heads
        self.q = nn.Linear(config.d_model, inner, bias=False)
        self.k = nn.Linear(config.d_model, inner, bias=False)
        self.v = nn.Linear(config.d_model, inner, bias=False)
        self.o = nn.Linear(inner, config.d_model, bias=False)
        if has_position_bias:
            self.relative_attention_bias = nn.Embedding(config.relative_attention_num_buckets, config.num_heads)

    def __call__(self, x: mx.array, bias: mx.array) -> mx.array:
        q, k, v = (self._heads(project(x)) for project in (self.q, self.k, self.v))
        out = mx.fast.scaled_dot_product_attention(q, k, v, scale=1.0, mask=bias)
        return self.o(out.swapaxes(1, 2).flatten(2))

    def _heads(self, x: mx.array) -> mx.array:
        return x.reshape(*x.shape[:2], self.num_heads, -1).swapaxes(1, 2)


class DenseGated(nn.Module):
    """The feed-forward layer: gelu_tanh(wi_0 x) · wi_1 x, projected back."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.wi_0 = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wi_1 = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.wo(nn.gelu_approx(self.wi_0(x)) * self.wi_1(x))


class AttentionLayer(nn.Module):
    def __init__(self, config: T5Config, has_position_bias: bool) -> None:
        super().__init__()
        self.SelfAttention = SelfAttention(config, has_position_bias)
        self.layer_norm = nn.RMSNorm(config.d_model, eps=config.layer_norm_epsilon)

    def __call__(self, x: mx.array, bias: mx.array) -> mx.array:
        return x + self.SelfAttention(self.layer_norm(x), bias)


class FeedForwardLayer(nn.Module):
    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.DenseReluDense = DenseGated(config)
        self.layer_norm = nn.RMSNorm(config.d_model, eps=config.layer_norm_epsilon)

    def __call__(self, x: mx.array) -> mx.array:
        return x + self.DenseReluDense(self.layer_norm(x))


class Block(nn.Module):
    def __init__(self, config: T5Config, has_position_bias: bool) -> None:
        super().__init__()
        self.layer = [AttentionLayer(config, has_position_bias), FeedForwardLayer(config)]

    def __call__(self, x: mx.array, bias: mx.array) -> mx.array:
        attention, feed_forward = self.layer
        return feed_forward(attention(x, bias))


class Stack(nn.Module):
    """The blocks. Only the first has the table of relative positions, which all blocks use."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.block = [Block(config, has_position_bias=index == 0) for index in range(config.num_layers)]
        self.final_layer_norm = nn.RMSNorm(config.d_model, eps=config.layer_norm_epsilon)

    def __call__(self, x: mx.array, mask: mx.array) -> mx.array:
        bias = self._position_bias(x.shape[1]) + mx.where(mask, 0.0, MASKED)[:, None, None, :]
        bias = bias.astype(x.dtype)
        pace = Pace(0)  # where quantized weights are widened, a block takes 0.4 GB for them
        for block in self.block:
            x = block(x, bias)
            pace(x)
        return self.final_layer_norm(x)

    def _position_bias(self, length: int) -> mx.array:
        """Return (1, heads, length, length): what is added to the scores of query i and key j."""
        positions = np.arange(length)
        buckets = relative_position_buckets(
            positions[None, :] - positions[:, None],
            self.config.relative_attention_num_buckets,
            self.config.relative_attention_max_distance,
        )
        table = self.block[0].layer[0].SelfAttention.relative_attention_bias
        return table(mx.array(buckets)).transpose(2, 0, 1)[None]


def relative_position_buckets(distance: np.ndarray, num_buckets: int, max_distance: int) -> np.ndarray:
    """Return T5's bidirectional buckets of key - query: half for each sign; near ones exact, far ones logarithmic."""
    half = num_buckets // 2
    exact = half // 2
    size = np.abs(distance)
    # float32, as the weights were trained: the bounds between buckets are where a logarithm is a whole number.
    ratio = np.log(np.maximum(size, 1).astype(np.float32) / np.float32(exact))
    far = exact + (ratio / np.float32(math.log(max_distance / exact)) * np.float32(half - exact)).astype(np.int32)
    return np.where(distance > 0, half, 0) + np.where(size < exact, size, np.minimum(far, half - 1))


class T5Encoder(nn.Module):
    """The whole encoder."""

    matrices: ClassVar[str] = TEXT_ENCODER_MATRICES

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = Stack(config)

    def __call__(self, ids: mx.array, mask: mx.array) -> mx.array:
        """Return embeddings (B, N, d_model) in the weights' dtype.

        Args:
            ids: Token ids, (B, N).
            mask: (B, N), 1 for a token and 0 for padding, which no token attends to.
        """
        return self.encoder(self.shared(ids), mask)


def text_encoder_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a Hugging Face folder: the shards of its index, or the single one."""
    return sharded_files(folder, "model")


def text_encoder_weights(folder: Path) -> Weights:
    """Return the tensors of a Hugging Face folder, read from disk when first used. Raise CheckpointError."""
    weights: Weights = {}
    for path in text_encoder_files(folder):
        weights |= load_tensors(path)[0]
    weights.pop("encoder.embed_tokens.weight", None)  # tied to `shared`
    return name_scales(weights, folder)


def load_text_encoder(folder: Path, dtype: mx.Dtype, quantize: int | None = None) -> T5Encoder:
    """Return the encoder of a Hugging Face folder.

    T5's activations overflow float16, so bfloat16 is used in its place.

    Args:
        folder: A folder with config.json and safetensors.
        dtype: The type of weights and activations.
        quantize: Bits for the matrices of the blocks, or None. The embedding is not quantized: it is looked up, not
            multiplied.

    Raises:
        CheckpointError: The folder has no such encoder, or is damaged.
    """
    model = _build(folder)
    load_weights(
        model,
        text_encoder_weights(folder),
        source=folder,
        dtype=mx.bfloat16 if dtype == mx.float16 else dtype,
        quantization=Quantization(bits=quantize, layers=TEXT_ENCODER_MATRICES) if quantize else None,
    )
    return model


def check_text_encoder(folder: Path) -> T5Config:
    """Raise CheckpointError unless a folder has the encoder that its config describes; return the config.

    Only shapes are compared: no weight is read.
    """
    model = _build(folder)
    check_weights(model, text_encoder_weights(folder), folder)
    return model.config


def text_encoder_config(folder: Path) -> T5Config:
    """Return the sizes of the encoder in a folder. Raise CheckpointError."""
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is not a folder; one with a T5's config.json and model.safetensors is expected"
        )
    source = folder / "config.json"
    supported = {"feed_forward_proj": "gated-gelu", "model_type": "t5"}
    return parse_config(T5Config, read_json(source), supported, source=str(source))


def _build(folder: Path) -> T5Encoder:
    config = text_encoder_config(folder)
    return build(lambda: T5Encoder(config), str(folder / "config.json"))
