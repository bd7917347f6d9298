"""The diffusion transformer of LTX-Video (HaCohen et al., 2024): noisy latent tokens → their velocity.

Attributes carry the checkpoint's names, so no key needs mapping.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ltx_models.checkpoint import Checkpoint, load_weights, parse_config
from ltx_models.embeddings import TimestepEmbedder
from ltx_models.errors import CheckpointError
from ltx_models.pacing import Pace
from ltx_models.quantization import TRANSFORMER_MATRICES, Quantization
from ltx_models.request import Perturbing

__all__ = [
    "Conditioning",
    "Perturbation",
    "Transformer",
    "TransformerConfig",
    "load_transformer",
    "pixel_coordinates",
    "rope_tables",
]

QK_NORM_EPS = 1e-5
MASKED = -10_000.0
"""Added to the scores of text padding."""
VAE_STRIDES = (8, 32, 32)
"""Frames, rows and columns of pixels of one latent token."""


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The fields of a checkpoint's `transformer` config that the model depends on."""

    num_attention_heads: int
    attention_head_dim: int
    num_layers: int
    in_channels: int
    out_channels: int
    caption_channels: int
    norm_eps: float = 1e-6
    positional_embedding_theta: float = 10_000.0
    positional_embedding_max_pos: tuple[int, int, int] = (20, 2048, 2048)
    timestep_scale_multiplier: float = 1_000.0
    causal_temporal_positioning: bool = False

    @property
    def inner_dim(self) -> int:
        """The width of the residual stream."""
        return self.num_attention_heads * self.attention_head_dim


SUPPORTED: dict[str, Any] = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_elementwise_affine": False,
    "positional_embedding_type": "rope",
    "qk_norm": "rms_norm",
    "standardization_norm": "rms_norm",
}


@dataclass(frozen=True)
class Conditioning:
    """What every step of a render shares.

    rope: cosines and sines, (B or 1, N, inner_dim / 2), float32.
    text: a key and a value (B, heads, S, head_dim) for each block's cross-attention.
    text_bias: (B, 1, 1, S), added to the scores; None where no text token is padding.
    """

    rope: tuple[mx.array, mx.array]
    text: list[tuple[mx.array, mx.array]]
    text_bias: mx.array | None

    def select(self, rows: Sequence[int]) -> Conditioning:
        """The same for a batch of these rows, in which each may appear more than once."""
        if list(rows) == list(range(len(self.text[0][0]))):
            return self
        chosen = mx.array(list(rows))
        cos, sin = (table if len(table) == 1 else table[chosen] for table in self.rope)
        text = [(key[chosen], value[chosen]) for key, value in self.text]
        return Conditioning((cos, sin), text, None if self.text_bias is None else self.text_bias[chosen])


@dataclass(frozen=True)
class Perturbation:
    """What spatio-temporal guidance (Hyung et al., 2024) does to the last row of a batch in some blocks.

    mode: "attention_values": self-attention gives its values, "attention_skip": its input, both before the output
    projection; "transformer_block": the block gives its input; "residual": nothing, as in the official code.
    """

    mode: Perturbing
    blocks: tuple[int, ...]


def pixel_coordinates(frames: int, height: int, width: int, *, causal: bool) -> np.ndarray:
    """Where latent tokens lie: (1, 3, N) of frame, y and x in pixels, for a latent of that size.

    A token's place is its top-left corner. `causal`: the first latent frame holds one frame, not eight, so all
    others begin seven earlier.
    """
    grid = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    coordinates = np.stack(grid).reshape(3, -1) * np.array(VAE_STRIDES)[:, None]
    if causal:
        coordinates[0] = np.maximum(0, coordinates[0] + 1 - VAE_STRIDES[0])
    return coordinates[None]


def rope_tables(coordinates: np.ndarray, frame_rate: float, config: TransformerConfig) -> tuple[mx.array, mx.array]:
    """Cosines and sines (B, N, inner_dim / 2) of the rotary embedding, for coordinates (B, 3, N) in pixels.

    Each position, as a fraction of its maximum (20 seconds, 2048 rows, 2048 columns) mapped to [-1, 1], is multiplied
    by π/2 · θ^linspace(0, 1, D/6). Pairs are laid out frequency by frequency, each with (t, y, x); what is left of D
    is not rotated and comes first. Made on the host in float32: the top angle is 15,708, where bfloat16 has no
    digits after the point.
    """
    positions = coordinates.astype(np.float32)
    positions[:, 0] *= np.float32(1 / frame_rate)
    fractions = positions / np.array(config.positional_embedding_max_pos, np.float32)[None, :, None]
    exponents = np.linspace(0, 1, config.inner_dim // 6, dtype=np.float32)
    # Only the power is taken in float64: float32 powers differ by an ulp from one machine to the next.
    powers = (config.positional_embedding_theta ** exponents.astype(np.float64)).astype(np.float32)
    frequencies = powers * np.float32(math.pi / 2)
    angles = (fractions * 2 - 1).swapaxes(1, 2)[:, :, None, :] * frequencies[:, None]
    angles = angles.reshape(*angles.shape[:2], -1)
    unrotated = config.inner_dim // 2 - angles.shape[-1]
    angles = np.pad(angles, ((0, 0), (0, 0), (unrotated, 0)))
    return mx.array(np.cos(angles)), mx.array(np.sin(angles))


def rotate(x: mx.array, rope: tuple[mx.array, mx.array]) -> mx.array:
    """Rotate each interleaved pair of channels of (B, N, D) by its angle, in float32."""
    cos, sin = rope
    pairs = x.astype(mx.float32).reshape(*x.shape[:-1], -1, 2)
    a, b = pairs[..., 0], pairs[..., 1]
    return mx.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(x.shape).astype(x.dtype)


class Attention(nn.Module):
    """Multi-head attention with RMS-normalized queries and keys: the norm spans all heads, before any rotation."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim = config.inner_dim
        self.num_heads = config.num_attention_heads
        self.scale = config.attention_head_dim**-0.5
        self.to_q = nn.Linear(dim, dim)
        self.to_k = nn.Linear(dim, dim)
        self.to_v = nn.Linear(dim, dim)
        self.to_out = [nn.Linear(dim, dim)]
        self.q_norm = nn.RMSNorm(dim, eps=QK_NORM_EPS)
        self.k_norm = nn.RMSNorm(dim, eps=QK_NORM_EPS)

    def self_attention(
        self, x: mx.array, rope: tuple[mx.array, mx.array], perturbing: Perturbing | None = None
    ) -> mx.array:
        q = self._heads(rotate(self.q_norm(self.to_q(x)), rope))
        k = self._heads(rotate(self.k_norm(self.to_k(x)), rope))
        values = self.to_v(x)
        out = self._attend(q, k, self._heads(values), None)
        if perturbing == "attention_values":
            out = _replace_last_row(out, values)
        elif perturbing == "attention_skip":
            out = _replace_last_row(out, x)
        return self.to_out[0](out)

    def cross_attention(self, x: mx.array, text: tuple[mx.array, mx.array], bias: mx.array | None) -> mx.array:
        return self.to_out[0](self._attend(self._heads(self.q_norm(self.to_q(x))), *text, bias))

    def keys_and_values(self, text: mx.array) -> tuple[mx.array, mx.array]:
        return self._heads(self.k_norm(self.to_k(text))), self._heads(self.to_v(text))

    def _attend(self, q: mx.array, k: mx.array, v: mx.array, bias: mx.array | None) -> mx.array:
        out = mx.fast.scaled_dot_product_attention(q, k, v, scale=self.scale, mask=bias)
        return out.swapaxes(1, 2).flatten(2)

    def _heads(self, x: mx.array) -> mx.array:
        return x.reshape(*x.shape[:2], self.num_heads, -1).swapaxes(1, 2)


def _replace_last_row(x: mx.array, source: mx.array) -> mx.array:
    return mx.concatenate([x[:-1], source[-1:]])


class GeluProjection(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, hidden)

    def __call__(self, x: mx.array) -> mx.array:
        return nn.gelu_approx(self.proj(x))


class FeedForward(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        # The checkpoint counts a dropout, which has no weights, as layer 1.
        self.net = [GeluProjection(dim, 4 * dim), nn.Identity(), nn.Linear(4 * dim, dim)]

    def __call__(self, x: mx.array) -> mx.array:
        for layer in self.net:
            x = layer(x)
        return x


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the text, feed-forward; the first and last modulated by the timestep."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.eps = config.norm_eps
        self.attn1 = Attention(config)
        self.attn2 = Attention(config)
        self.ff = FeedForward(config.inner_dim)
        self.scale_shift_table = mx.zeros((6, config.inner_dim))

    def __call__(
        self,
        x: mx.array,
        modulation: mx.array,
        rope: tuple[mx.array, mx.array],
        text: tuple[mx.array, mx.array],
        text_bias: mx.array | None,
        pace: Pace,
        perturbing: Perturbing | None = None,
    ) -> mx.array:
        """x: (B, N, D); modulation: (B, 1 or N, 6, D); perturbing: what to do to the last row."""
        given = x
        values = self.scale_shift_table + modulation
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = (values[:, :, row] for row in range(6))
        normed = mx.fast.rms_norm(x, None, self.eps) * (1 + scale_msa) + shift_msa
        x = x + gate_msa * self.attn1.self_attention(normed, rope, perturbing)
        x = pace(x + self.attn2.cross_attention(x, text, text_bias))
        normed = mx.fast.rms_norm(x, None, self.eps) * (1 + scale_mlp) + shift_mlp
        x = x + gate_mlp * self.ff(normed)
        return pace(_replace_last_row(x, given) if perturbing == "transformer_block" else x)


class AdaLayerNormSingle(nn.Module):
    """The timestep → its embedding, and from it the modulation that all blocks share (PixArt-alpha)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.emb = TimestepEmbedder(dim)
        self.linear = nn.Linear(dim, 6 * dim)

    def __call__(self, timestep: mx.array) -> tuple[mx.array, mx.array]:
        """(B, T) → modulation (B, T, 6, D), embedding (B, T, D)."""
        embedded = self.emb(timestep)
        modulation = self.linear(nn.silu(embedded))
        return modulation.reshape(*embedded.shape[:2], 6, -1), embedded


class CaptionProjection(nn.Module):
    def __init__(self, caption_dim: int, dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(caption_dim, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def __call__(self, text: mx.array) -> mx.array:
        return self.linear_2(nn.gelu_approx(self.linear_1(text)))


class Transformer(nn.Module):
    """The whole model. `prepare` once a render, then call it once a step."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim = config.inner_dim
        self.config = config
        self.patchify_proj = nn.Linear(config.in_channels, dim)
        self.adaln_single = AdaLayerNormSingle(dim)
        self.caption_projection = CaptionProjection(config.caption_channels, dim)
        self.transformer_blocks = [TransformerBlock(config) for _ in range(config.num_layers)]
        self.scale_shift_table = mx.zeros((2, dim))
        self.proj_out = nn.Linear(dim, config.out_channels)

    @property
    def dtype(self) -> mx.Dtype:
        """What the weights are in, and so the activations."""
        return self.proj_out.weight.dtype

    def prepare(
        self, text: mx.array, text_mask: mx.array | None, coordinates: np.ndarray, frame_rate: float
    ) -> Conditioning:
        """What does not change between steps: rotary tables, and the text's keys and values.

        text: (B, S, caption_channels); text_mask: (B, S), 1 for a token and 0 for padding, or None where all are
        tokens; coordinates: (B or 1, 3, N) in pixels; frame_rate: frames a second.
        """
        text = self.caption_projection(text.astype(self.dtype))
        bias = None
        if text_mask is not None:
            bias = ((1 - text_mask.astype(self.dtype)) * MASKED)[:, None, None, :]
        return Conditioning(
            rope=rope_tables(coordinates, frame_rate, self.config),
            text=[block.attn2.keys_and_values(text) for block in self.transformer_blocks],
            text_bias=bias,
        )

    def __call__(
        self,
        tokens: mx.array,
        timestep: mx.array,
        conditioning: Conditioning,
        perturbation: Perturbation | None = None,
    ) -> mx.array:
        """The velocity (B, N, out_channels) of tokens (B, N, in_channels), in the weights' dtype.

        timestep: in [0, 1], of shape (B,) or (B, 1) for all tokens, or (B, N) for each its own.
        perturbation: of the last row, if it is to be perturbed.
        """
        scaled = timestep.astype(mx.float32).reshape(timestep.shape[0], -1) * self.config.timestep_scale_multiplier
        modulation, embedded = self.adaln_single(scaled)
        x = self.patchify_proj(tokens.astype(self.dtype))
        pace = Pace()
        for index, (block, text) in enumerate(zip(self.transformer_blocks, conditioning.text, strict=True)):
            perturbing = perturbation.mode if perturbation and index in perturbation.blocks else None
            x = block(x, modulation, conditioning.rope, text, conditioning.text_bias, pace, perturbing)
        values = self.scale_shift_table + embedded[:, :, None]
        shift, scale = values[:, :, 0], values[:, :, 1]
        x = mx.fast.layer_norm(x, None, None, self.config.norm_eps) * (1 + scale) + shift
        return self.proj_out(x)


def load_transformer(file: Checkpoint, dtype: mx.Dtype, quantize: int | None = None) -> Transformer:
    """The transformer of a checkpoint, its blocks' matrices quantized to `quantize` bits. Raises CheckpointError."""
    source = f"the transformer config of {file.path}"
    config = parse_config(TransformerConfig, file.section("transformer"), SUPPORTED, source=source)
    if file.section("transformer").get("cross_attention_dim", config.inner_dim) != config.inner_dim:
        raise CheckpointError(f"{source} has a cross_attention_dim that is not heads x head dim = {config.inner_dim}")
    model = Transformer(config)
    load_weights(
        model,
        file.transformer_weights(),
        source=file.path,
        dtype=dtype,
        quantization=Quantization(bits=quantize, layers=TRANSFORMER_MATRICES) if quantize else None,
    )
    return model
