"""The diffusion transformer of LTX-Video (HaCohen et al., 2024): noisy latent tokens → their velocity.

Attributes carry the checkpoint's names, so no key needs mapping.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ltx_models.checkpoint import Checkpoint, build, check_weights, load_weights, parse_config
from ltx_models.errors import CheckpointError
from ltx_models.families.ltxv import TRANSFORMER_MATRICES
from ltx_models.kernels import add_and_modulate, modulate, rotate
from ltx_models.layers.linear import linear
from ltx_models.layers.pacing import Pace
from ltx_models.layers.quantization import Quantization
from ltx_models.layers.timestep import TimestepEmbedder
from ltx_models.request import Perturbing
from ltx_models.transformers.block import GATE_FEED_FORWARD, Tokens, TransformerBlock
from ltx_models.transformers.config import TransformerConfig
from ltx_models.transformers.rope import pixel_coordinates, rope_tables

__all__ = [
    "Conditioning",
    "Perturbation",
    "TokenTimesteps",
    "Transformer",
    "TransformerConfig",
    "check_transformer",
    "load_transformer",
    "pixel_coordinates",
    "rope_tables",
    "rotate",
]

SHIFT_OUT, SCALE_OUT = range(2)
"""Rows of the output's modulation."""
MASKED = -10_000.0
"""The number that is added to the scores of text padding."""

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
    """The inputs that all steps of a render share.

    Attributes:
        rope: Cosines and sines, (B or 1, N, inner_dim / 2), float32.
        text: A key and a value (B, heads, S, head_dim) for each block's cross-attention.
        text_bias: (B, 1, 1, S), added to the scores; None where no text token is padding.
        tables: (layers, 1, 6, inner_dim), what each block adds to the modulation.
    """

    rope: tuple[mx.array, mx.array]
    text: list[tuple[mx.array, mx.array]]
    text_bias: mx.array | None
    tables: mx.array

    @property
    def rows(self) -> int:
        """The batch size that it is for."""
        return len(self.text[0][0])

    def select(self, rows: Sequence[int]) -> Conditioning:
        """Return the conditioning for a batch of these rows, in which each may appear more than once."""
        if list(rows) == list(range(self.rows)):
            return self
        chosen = mx.array(list(rows))
        cos, sin = (table if len(table) == 1 else table[chosen] for table in self.rope)
        text = [(key[chosen], value[chosen]) for key, value in self.text]
        bias = None if self.text_bias is None else self.text_bias[chosen]
        return Conditioning((cos, sin), text, bias, self.tables)

    def first(self, rows: int) -> Conditioning:
        """Return the conditioning of the first `rows` rows."""
        if rows == self.rows:
            return self
        cos, sin = (table[:rows] for table in self.rope)
        text = [(key[:rows], value[:rows]) for key, value in self.text]
        return Conditioning((cos, sin), text, None if self.text_bias is None else self.text_bias[:rows], self.tables)


@dataclass(frozen=True)
class Perturbation:
    """A perturbation of the last row of a batch in some blocks, for spatio-temporal guidance (Hyung et al., 2024).

    Attributes:
        mode: "attention_values": self-attention returns its values, "attention_skip": its input, both before the output
            projection; "transformer_block": the block returns its input; "residual": nothing, as in the official code.
        blocks: The indices of the blocks.
    """

    mode: Perturbing
    blocks: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class TokenTimesteps:
    """The timesteps of tokens, few of which differ.

    Attributes:
        values: The distinct timesteps, (T,) in [0, 1].
        places: The index among them that each token has, (N,) int32.
    """

    values: mx.array
    places: mx.array


class AdaLayerNormSingle(nn.Module):
    """The timestep's embedding, and from it the modulation that all blocks share (PixArt-alpha, Chen et al., 2023)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.emb = TimestepEmbedder(dim)
        self.linear = nn.Linear(dim, 6 * dim)

    def __call__(self, timestep: mx.array) -> tuple[mx.array, mx.array]:
        """Return the modulation (T, 6, D) and the embedding (T, D) of timesteps (T,)."""
        embedded = self.emb(timestep)
        return self.linear(nn.silu(embedded)).reshape(len(embedded), 6, -1), embedded


class CaptionProjection(nn.Module):
    def __init__(self, caption_dim: int, dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(caption_dim, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def __call__(self, text: mx.array) -> mx.array:
        return self.linear_2(nn.gelu_approx(self.linear_1(text)))


class Transformer(nn.Module):
    """The whole transformer. Call `prepare` once a render, then the model itself once a step."""

    matrices: ClassVar[str] = TRANSFORMER_MATRICES

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
        self._rope: tuple[Any, tuple[mx.array, mx.array]] | None = None

    @property
    def dtype(self) -> mx.Dtype:
        """The type of the weights, and so of the activations."""
        return self.proj_out.weight.dtype

    def fuse(self) -> None:
        """Join layers that have the same input, block by block, so that few weights are in memory twice."""
        for block in self.transformer_blocks:
            block.fuse()

    def prepare(
        self, text: mx.array, text_mask: mx.array | None, coordinates: np.ndarray, frame_rate: float
    ) -> Conditioning:
        """Return what does not change between steps: rotary tables, and the text's keys and values.

        Args:
            text: Embeddings (B, S, caption_channels).
            text_mask: (B, S), 1 for a token and 0 for padding; None where all are tokens.
            coordinates: (B or 1, 3, N) in pixels.
            frame_rate: Frames a second.
        """
        text = self.caption_projection(text.astype(self.dtype))
        bias = None
        if text_mask is not None:
            bias = ((1 - text_mask.astype(self.dtype)) * MASKED)[:, None, None, :]
        conditioning = Conditioning(
            rope=self._rope_tables(coordinates, frame_rate),
            text=[block.keys_and_values(text) for block in self.transformer_blocks],
            text_bias=bias,
            tables=mx.stack([block.scale_shift_table for block in self.transformer_blocks])[:, None],
        )
        mx.async_eval(conditioning.rope, conditioning.text, conditioning.tables)
        return conditioning

    def _rope_tables(self, coordinates: np.ndarray, frame_rate: float) -> tuple[mx.array, mx.array]:
        """Return rotary tables; those of the last render, if it had the same shape."""
        key = (frame_rate, coordinates.shape, coordinates.tobytes())
        if self._rope is None or self._rope[0] != key:
            self._rope = key, rope_tables(coordinates, frame_rate, self.config)
        return self._rope[1]

    def __call__(
        self,
        tokens: mx.array,
        timestep: mx.array | TokenTimesteps,
        conditioning: Conditioning,
        perturbation: Perturbation | None = None,
    ) -> mx.array:
        """Return the velocity (B, N, out_channels) of tokens, in the weights' dtype.

        Where the conditioning has one row more than there are tokens, that row is the last sample again, perturbed: it
        is computed together with the last sample up to where the two differ, and its velocity comes last.

        Args:
            tokens: (B, N, in_channels).
            timestep: In [0, 1]; of shape (1,), (B,) or (B, 1) for all tokens of a sample, or (B, N) for each token,
                which is evaluated to find the distinct ones; or TokenTimesteps, which needs no evaluation.
            conditioning: The result of `prepare`.
            perturbation: The perturbation of the last row; None for none.
        """
        timesteps = timestep if isinstance(timestep, TokenTimesteps) else _distinct(timestep, *tokens.shape[:2])
        places = timesteps.places
        scaled = timesteps.values.astype(mx.float32) * self.config.timestep_scale_multiplier
        modulation, embedded = self.adaln_single(scaled)
        modulations = conditioning.tables + modulation
        flow = Tokens(self.patchify_proj(tokens.astype(self.dtype)))
        shared = conditioning.first(len(tokens))
        perturbed_blocks = perturbation.blocks if perturbation else ()
        pace = Pace()
        for index, block in enumerate(self.transformer_blocks):
            perturbing = perturbation.mode if perturbation and index in perturbed_blocks else None
            if perturbing and len(flow.x) < conditioning.rows:
                flow, places = self._part(flow, places)
                shared = conditioning
            flow = block(
                flow, modulations[index], places, shared.rope, shared.text[index], shared.text_bias, pace, perturbing
            )
        if len(flow.x) < conditioning.rows:
            flow, places = self._part(flow, places)
        return self._velocity(flow, embedded, places)

    @staticmethod
    def _part(flow: Tokens, places: mx.array) -> tuple[Tokens, mx.array]:
        """Repeat the last sample of the batch: from here on it and its perturbed copy differ."""
        batch, tokens, _ = flow.x.shape
        if places.size == batch * tokens > tokens:
            places = mx.concatenate([places, places[-tokens:]])
        return flow.with_last_row_twice(), places

    def _velocity(self, flow: Tokens, embedded: mx.array, places: mx.array) -> mx.array:
        values = self.scale_shift_table + embedded[:, None]
        norm = (values, places, SHIFT_OUT, SCALE_OUT, self.config.norm_eps, True)
        if flow.pending is None:
            normed = modulate(flow.x, *norm)
        else:
            _, normed = add_and_modulate(flow.x, flow.pending.branch, flow.pending.modulation, GATE_FEED_FORWARD, *norm)
        return linear(self.proj_out, normed)


def _distinct(timestep: mx.array, batch: int, tokens: int) -> TokenTimesteps:
    if timestep.size == 1:
        return TokenTimesteps(timestep.reshape(1), mx.zeros((1,), mx.int32))
    if timestep.size == batch:
        return TokenTimesteps(timestep.reshape(-1), mx.repeat(mx.arange(batch, dtype=mx.int32), tokens))
    values, places = np.unique(np.array(timestep.astype(mx.float32)), return_inverse=True)
    return TokenTimesteps(mx.array(values), mx.array(places.reshape(-1).astype(np.int32)))


def load_transformer(file: Checkpoint, dtype: mx.Dtype, quantize: int | None = None) -> Transformer:
    """Return the transformer of a checkpoint, its blocks' matrices quantized to `quantize` bits unless that is None.

    Raises:
        CheckpointError: The checkpoint has no such transformer, or is damaged.
    """
    model = _build(file)
    load_weights(
        model,
        file.weights("transformer"),
        source=file.path,
        dtype=dtype,
        quantization=Quantization(bits=quantize, layers=TRANSFORMER_MATRICES) if quantize else None,
    )
    model.fuse()
    return model


def check_transformer(file: Checkpoint) -> TransformerConfig:
    """Raise CheckpointError unless a checkpoint has the transformer that its config describes; return the sizes.

    Only shapes are compared: no weight is read.
    """
    model = _build(file)
    check_weights(model, file.weights("transformer"), file.path)
    return model.config


def _build(file: Checkpoint) -> Transformer:
    source = f"the transformer config of {file.path}"
    config = parse_config(TransformerConfig, file.section("transformer"), SUPPORTED, source=source)
    if file.section("transformer").get("cross_attention_dim", config.inner_dim) != config.inner_dim:
        raise CheckpointError(f"{source} has a cross_attention_dim that is not heads x head dim = {config.inner_dim}")
    return build(lambda: Transformer(config), source)
