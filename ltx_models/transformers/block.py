"""A block of the diffusion transformer: its parameters and its computation.

Attributes carry the checkpoint's names. The computation is a function of parameters and inputs, so that MLX compiles it
once for all blocks, for each shape and each kind of perturbation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ltx_models.kernels import add_and_modulate, backend, bias_gelu, gated_add, modulate, norm_and_rotate
from ltx_models.layers.linear import fused, linear, product
from ltx_models.request import Perturbing
from ltx_models.transformers.config import TransformerConfig

__all__ = ["GATE_FEED_FORWARD", "Pending", "Tokens", "TransformerBlock"]

QK_NORM_EPS = 1e-5
SHIFT_ATTENTION, SCALE_ATTENTION, GATE_ATTENTION, SHIFT_FEED_FORWARD, SCALE_FEED_FORWARD, GATE_FEED_FORWARD = range(6)
"""Rows of a block's modulation."""
UNGATED = -1

Parameters = Mapping[str, Any]


class Attention(nn.Module):
    """Multi-head attention with RMS-normalized queries and keys: the norm spans all heads, before any rotation.

    After `fuse`, self-attention has one layer `to_qkv` in place of three, and cross-attention `to_kv` in place of two.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim = config.inner_dim
        self.to_q = nn.Linear(dim, dim)
        self.to_k = nn.Linear(dim, dim)
        self.to_v = nn.Linear(dim, dim)
        self.to_out = [nn.Linear(dim, dim)]
        self.q_norm = nn.RMSNorm(dim, eps=QK_NORM_EPS)
        self.k_norm = nn.RMSNorm(dim, eps=QK_NORM_EPS)

    def fuse(self, name: str, parts: tuple[str, ...]) -> None:
        """Join the layers `parts`, which have the same input, into the layer `name`, if they store weights alike."""
        if any(part not in self for part in parts):
            return
        layer = fused([self[part] for part in parts])
        if layer is not None:
            mx.eval(layer.parameters())
            self[name] = layer
            for part in parts:
                del self[part]


class GeluProjection(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, hidden)


class FeedForward(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        # The checkpoint counts a dropout, which has no weights, as layer 1.
        self.net = [GeluProjection(dim, 4 * dim), nn.Identity(), nn.Linear(4 * dim, dim)]


@dataclass(frozen=True)
class Pending:
    """The output of the last block's feed-forward, which the next kernel adds to the tokens.

    Attributes:
        branch: The output, (B, N, D).
        modulation: That block's modulation, (T, 6, D), which contains the gate.
    """

    branch: mx.array
    modulation: mx.array


@dataclass(frozen=True)
class Tokens:
    """The tokens between two blocks: the residual stream (B, N, D), and what is still to be added to it."""

    x: mx.array
    pending: Pending | None = None

    def with_last_row_twice(self) -> Tokens:
        """Return the tokens with the last row of the batch repeated."""
        pending = self.pending and Pending(_with_last_row_twice(self.pending.branch), self.pending.modulation)
        return Tokens(_with_last_row_twice(self.x), pending)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the text, feed-forward; the first and last are modulated by the timestep."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.eps = config.norm_eps
        self.num_heads = config.num_attention_heads
        self.attn1 = Attention(config)
        self.attn2 = Attention(config)
        self.ff = FeedForward(config.inner_dim)
        self.scale_shift_table = mx.zeros((6, config.inner_dim))

    def fuse(self) -> None:
        """Join layers that have the same input: one product in place of three, and in place of two for the text."""
        self.attn1.fuse("to_qkv", ("to_q", "to_k", "to_v"))
        self.attn2.fuse("to_kv", ("to_k", "to_v"))

    def keys_and_values(self, text: mx.array) -> tuple[mx.array, mx.array]:
        """Return keys and values of the text (B, S, D) for cross-attention, each (B, heads, S, head_dim)."""
        attention: Parameters = self.attn2
        if "to_kv" in attention:
            keys, values = mx.split(linear(attention["to_kv"], text), 2, axis=-1)
        else:
            keys, values = linear(attention["to_k"], text), linear(attention["to_v"], text)
        keys = mx.fast.rms_norm(keys, attention["k_norm"]["weight"], QK_NORM_EPS)
        return _heads(keys, self.num_heads), _heads(values, self.num_heads)

    def __call__(
        self,
        tokens: Tokens,
        modulation: mx.array,
        places: mx.array,
        rope: tuple[mx.array, mx.array],
        text: tuple[mx.array, mx.array],
        text_bias: mx.array | None,
        pace: Callable[..., None],
        perturbing: Perturbing | None = None,
    ) -> Tokens:
        """Return the tokens after this block.

        Args:
            tokens: The tokens before it.
            modulation: (T, 6, D), with the block's table added.
            places: The index among the T timesteps that each token has (`ltx_models.kernels.rows`).
            rope: Cosines and sines, each (B or 1, N, D / 2).
            text: Keys and values of the text, as from `keys_and_values`.
            text_bias: (B, 1, 1, S), added to the scores of the text; None where no text token is padding.
            pace: Called with the arrays after each half of the block (`ltx_models.layers.pacing.Pace`).
            perturbing: What to do to the last row; None for nothing.
        """
        pending = tokens.pending and (tokens.pending.branch, tokens.pending.modulation)
        attend, feed = _halves(self.num_heads, self.eps, perturbing, backend() is not None)
        given, x, read = attend(self, tokens.x, pending, modulation, places, rope, text, text_bias)
        pace(x, read)
        x, branch = feed(self, given, x, read, modulation, places)
        pace(x, branch)
        return Tokens(x, None if branch is None else Pending(branch, modulation))


@functools.cache
def _halves(
    heads: int, eps: float, perturbing: Perturbing | None, compiled: bool
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the two halves of a block's computation: up to its feed-forward, and from there.

    They are compiled on a GPU only: on a CPU MLX would call a C++ compiler, and gain little. There are two halves
    because a function that is compiled as one has all its intermediates in memory at once.
    """
    attend = functools.partial(_attend_to_all, heads=heads, eps=eps, perturbing=perturbing)
    feed = functools.partial(_feed_forward, eps=eps)
    return (mx.compile(attend), mx.compile(feed)) if compiled else (attend, feed)


def _attend_to_all(
    parameters: Parameters,
    x: mx.array,
    pending: tuple[mx.array, mx.array] | None,
    modulation: mx.array,
    places: mx.array,
    rope: tuple[mx.array, mx.array],
    text: tuple[mx.array, mx.array],
    text_bias: mx.array | None,
    *,
    heads: int,
    eps: float,
    perturbing: Perturbing | None,
) -> tuple[mx.array | None, mx.array, mx.array]:
    """Compute self-attention and cross-attention.

    Returns:
        The tokens before the block, if they are needed later; the tokens after self-attention; and the output of
        cross-attention, which is still to be added.
    """
    attention = (modulation, places, SHIFT_ATTENTION, SCALE_ATTENTION, eps, False)
    if pending is None:
        normed = modulate(x, *attention)
    else:
        branch, gates = pending
        x, normed = add_and_modulate(x, branch, gates, GATE_FEED_FORWARD, *attention)
    given = x
    attended = _self_attention(parameters["attn1"], normed, rope, heads, perturbing)
    x = gated_add(x, attended, modulation, places, GATE_ATTENTION)
    read = _cross_attention(parameters["attn2"], x, text, text_bias, heads)
    return given if perturbing == "transformer_block" else None, x, read


def _feed_forward(
    parameters: Parameters,
    given: mx.array | None,
    x: mx.array,
    read: mx.array,
    modulation: mx.array,
    places: mx.array,
    *,
    eps: float,
) -> tuple[mx.array, mx.array | None]:
    """Return the tokens, and the feed-forward's output, which is still to be added times its gate."""
    feed_forward = (modulation, places, SHIFT_FEED_FORWARD, SCALE_FEED_FORWARD, eps, False)
    x, normed = add_and_modulate(x, read, modulation, UNGATED, *feed_forward)
    first, _, second = parameters["ff"]["net"]
    branch = linear(second, bias_gelu(product(first["proj"], normed), first["proj"]["bias"]))
    if given is not None:
        x = gated_add(x, branch, modulation, places, GATE_FEED_FORWARD)
        return mx.concatenate([x[:-1], given[-1:]]), None
    return x, branch


def _self_attention(
    parameters: Parameters,
    x: mx.array,
    rope: tuple[mx.array, mx.array],
    heads: int,
    perturbing: Perturbing | None,
) -> mx.array:
    if "to_qkv" in parameters:
        projected = linear(parameters["to_qkv"], x)
    else:
        projected = mx.concatenate([linear(parameters[name], x) for name in ("to_q", "to_k", "to_v")], axis=-1)
    norms = parameters["q_norm"]["weight"], parameters["k_norm"]["weight"]
    queries, keys = norm_and_rotate(projected, *norms, *rope, QK_NORM_EPS)
    # A view: attention accepts the strides of values within the product.
    values = mx.unflatten(projected, -1, (3, heads, -1))[:, :, 2]
    replacement = None
    if perturbing == "attention_values":
        replacement = values[-1:].flatten(2)
    elif perturbing == "attention_skip":
        replacement = x[-1:]
    rows = len(x) if replacement is None else len(x) - 1
    q, k = (_heads(projection[:rows], heads) for projection in (queries, keys))
    parts = [_attend(q, k, values[:rows].swapaxes(1, 2), None)] if rows else []
    parts += [] if replacement is None else [replacement]
    out = parts[0] if len(parts) == 1 else mx.concatenate(parts)
    return linear(parameters["to_out"][0], out)


def _cross_attention(
    parameters: Parameters, x: mx.array, text: tuple[mx.array, mx.array], bias: mx.array | None, heads: int
) -> mx.array:
    queries = mx.fast.rms_norm(linear(parameters["to_q"], x), parameters["q_norm"]["weight"], QK_NORM_EPS)
    return linear(parameters["to_out"][0], _attend(_heads(queries, heads), *text, bias))


def _attend(q: mx.array, k: mx.array, v: mx.array, bias: mx.array | None) -> mx.array:
    """Return attention of (B, heads, N, head_dim) each as (B, N, D).

    Where q is token by token in memory, the result is too, and needs no copy.
    """
    out = mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5, mask=bias)
    return out.swapaxes(1, 2).flatten(2)


def _heads(x: mx.array, heads: int) -> mx.array:
    return mx.unflatten(x, -1, (heads, -1)).swapaxes(1, 2)


def _with_last_row_twice(x: mx.array) -> mx.array:
    return mx.concatenate([x, x[-1:]])
