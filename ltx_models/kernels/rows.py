"""The transformer's operations: the formula, the kernel, and the arguments that the kernel supports.

modulation: (T, R, D), for each of T distinct timesteps R rows of shifts, scales and gates, of which an operation names
those that it uses.

places: int32, the index among the T timesteps that each token has: one for all tokens, one for each of a sample's N, or
one for each of the batch's B·N.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ltx_models.kernels import cuda, metal
from ltx_models.kernels.launch import Kernel, Operation, chunk_size, random_array, threads_for

__all__ = ["add_and_modulate", "bias_gelu", "gated_add", "modulate", "norm_and_rotate", "rotate"]

UNGATED = -1
SAMPLE_TOKENS = 3
EPS_UNIT = 1e-12
"""The unit of epsilon: kernels take whole numbers that are not negative, since they become part of a name."""


def _kernel(name: str, inputs: str, outputs: str) -> Kernel:
    sources = [(module.HEADER, getattr(module, name.upper())) for module in (cuda, metal)]
    return Kernel(name, tuple(inputs.split()), tuple(outputs.split()), *sources)


MODULATE = _kernel("modulate", "tokens modulation places", "normed")
ADD_AND_MODULATE = _kernel("add_and_modulate", "tokens branch gates modulation places", "summed normed")
GATED_ADD = _kernel("gated_add", "tokens branch gates places", "summed")
NORM_AND_ROTATE = _kernel("norm_and_rotate", "projected q_weight k_weight cosines sines", "queries keys")
BIAS_GELU = _kernel("bias_gelu", "hidden bias", "activated")


def _of_tokens(x: mx.array, modulation: mx.array, places: mx.array, row: int) -> mx.array:
    """Return a row's values for each token of x: (1, 1, D), (1, N, D) or (B, N, D)."""
    values = modulation[:, row][places]
    return values[None] if places.size == 1 else values.reshape(-1, x.shape[1], x.shape[2])


def _norm(x: mx.array, eps: float, layer_norm: bool) -> mx.array:
    return mx.fast.layer_norm(x, None, None, eps) if layer_norm else mx.fast.rms_norm(x, None, eps)


def _same_type(*arrays: mx.array) -> bool:
    return all(array.dtype == arrays[0].dtype for array in arrays)


def _row_constants(x: mx.array, threads: int, **constants: int) -> dict[str, Any]:
    rows = x.shape[0] * x.shape[1]
    return {"groups": rows, "threads": threads, "T": x.dtype, "D": x.shape[-1], **constants}


def _sample_rows(x: mx.array, seed: int) -> mx.array:
    return random_array((1, SAMPLE_TOKENS, x.shape[-1]), x.dtype, seed)


def _sample_modulation(modulation: mx.array, seed: int) -> mx.array:
    return random_array((2, *modulation.shape[1:]), modulation.dtype, seed)


def _sample_places() -> mx.array:
    return mx.array([1, 0, 1], mx.int32)


def _modulate_plain(
    x: mx.array, modulation: mx.array, places: mx.array, shift: int, scale: int, eps: float, layer_norm: bool
) -> mx.array:
    scaled = _norm(x, eps, layer_norm) * (1 + _of_tokens(x, modulation, places, scale))
    return scaled + _of_tokens(x, modulation, places, shift)


def _modulate_kernel(
    x: mx.array, modulation: mx.array, places: mx.array, shift: int, scale: int, eps: float, layer_norm: bool
) -> mx.array:
    threads = threads_for(x.shape[-1], x.dtype)
    assert threads
    norm = {"EPS": round(eps / EPS_UNIT), "LAYER": layer_norm}
    rows = {"SHIFT": shift, "SCALE": scale, "MODULATION_ROWS": modulation.shape[1]}
    return MODULATE(x, modulation, places, shapes=[x.shape], **_row_constants(x, threads, **norm, **rows))[0]


modulate = Operation(
    "modulate",
    plain=_modulate_plain,
    launch=_modulate_kernel,
    fits=lambda x, modulation, *_: _same_type(x, modulation) and threads_for(x.shape[-1], x.dtype) is not None,
    sample=lambda x, modulation, _places, *rest: (
        _sample_rows(x, 0),
        _sample_modulation(modulation, 1),
        _sample_places(),
        *rest,
    ),
)
"""Compute x normalized, times 1 + scale, plus shift. Arguments: x, modulation, places, the rows of shift and of scale,
the norm's epsilon, and whether the norm is a LayerNorm (else an RMSNorm); neither has weights.
"""


def _add_and_modulate_plain(
    x: mx.array, y: mx.array, gates: mx.array, gate: int, modulation: mx.array, places: mx.array, *rest: Any
) -> tuple[mx.array, mx.array]:
    summed = x + y if gate == UNGATED else _gated_add_plain(x, y, gates, places, gate)
    return summed, _modulate_plain(summed, modulation, places, *rest)


def _add_and_modulate_kernel(
    x: mx.array,
    y: mx.array,
    gates: mx.array,
    gate: int,
    modulation: mx.array,
    places: mx.array,
    shift: int,
    scale: int,
    eps: float,
    layer_norm: bool,
) -> tuple[mx.array, mx.array]:
    threads = threads_for(x.shape[-1], x.dtype)
    assert threads
    norm = {"EPS": round(eps / EPS_UNIT), "LAYER": layer_norm}
    rows = {"SHIFT": shift, "SCALE": scale, "MODULATION_ROWS": modulation.shape[1]}
    gating = {"GATED": gate != UNGATED, "GATE": max(gate, 0), "ROWS": gates.shape[1]}
    constants = _row_constants(x, threads, **norm, **rows, **gating)
    summed, normed = ADD_AND_MODULATE(x, y, gates, modulation, places, shapes=[x.shape, x.shape], **constants)
    return summed, normed


add_and_modulate = Operation(
    "add_and_modulate",
    plain=_add_and_modulate_plain,
    launch=_add_and_modulate_kernel,
    fits=lambda x, y, gates, _gate, modulation, *_: (
        _same_type(x, y, gates, modulation) and threads_for(x.shape[-1], x.dtype) is not None
    ),
    sample=lambda x, y, gates, gate, modulation, _places, *rest: (
        _sample_rows(x, 0),
        _sample_rows(y, 1),
        _sample_modulation(gates, 2),
        gate,
        _sample_modulation(modulation, 3),
        _sample_places(),
        *rest,
    ),
)
"""Compute x + gate·y, and its `modulate`: the end of one branch and the beginning of the next. Arguments: x, y, an
array like modulation with the gates, their row in it or UNGATED, and from modulation on those of `modulate`.
"""


def _gated_add_plain(x: mx.array, y: mx.array, gates: mx.array, places: mx.array, gate: int) -> mx.array:
    return x + _of_tokens(x, gates, places, gate) * y


def _gated_add_kernel(x: mx.array, y: mx.array, gates: mx.array, places: mx.array, gate: int) -> mx.array:
    threads = threads_for(x.shape[-1], x.dtype)
    assert threads
    constants = _row_constants(x, threads, GATED=True, GATE=gate, ROWS=gates.shape[1])
    return GATED_ADD(x, y, gates, places, shapes=[x.shape], **constants)[0]


gated_add = Operation(
    "gated_add",
    plain=_gated_add_plain,
    launch=_gated_add_kernel,
    fits=lambda x, y, gates, *_: _same_type(x, y, gates) and threads_for(x.shape[-1], x.dtype) is not None,
    sample=lambda x, y, gates, _places, gate: (
        _sample_rows(x, 0),
        _sample_rows(y, 1),
        _sample_modulation(gates, 2),
        _sample_places(),
        gate,
    ),
)
"""Compute x + gate·y. Arguments: x, y, an array like modulation with the gates, places, and the gates' row."""


def rotate(x: mx.array, rope: tuple[mx.array, mx.array]) -> mx.array:
    """Rotate each interleaved pair of channels of (B, N, D) by its angle, in float32."""
    cos, sin = rope
    pairs = x.astype(mx.float32).reshape(*x.shape[:-1], -1, 2)
    a, b = pairs[..., 0], pairs[..., 1]
    return mx.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(x.shape).astype(x.dtype)


def _norm_and_rotate_plain(
    projected: mx.array, q_weight: mx.array, k_weight: mx.array, cos: mx.array, sin: mx.array, eps: float
) -> tuple[mx.array, mx.array]:
    queries, keys, _ = mx.split(projected, 3, axis=-1)
    return (
        rotate(mx.fast.rms_norm(queries, q_weight, eps), (cos, sin)),
        rotate(mx.fast.rms_norm(keys, k_weight, eps), (cos, sin)),
    )


def _norm_and_rotate_kernel(
    projected: mx.array, q_weight: mx.array, k_weight: mx.array, cos: mx.array, sin: mx.array, eps: float
) -> tuple[mx.array, mx.array]:
    batch, tokens, channels = projected.shape[0], projected.shape[1], projected.shape[2] // 3
    threads = threads_for(channels, projected.dtype)
    assert threads
    queries, keys = NORM_AND_ROTATE(
        projected,
        q_weight,
        k_weight,
        cos.reshape(-1, channels // 2),
        sin.reshape(-1, channels // 2),
        groups=batch * tokens,
        threads=threads,
        shapes=[(batch, tokens, channels)] * 2,
        T=projected.dtype,
        D=channels,
        EPS=round(eps / EPS_UNIT),
    )
    return queries, keys


norm_and_rotate = Operation(
    "norm_and_rotate",
    plain=_norm_and_rotate_plain,
    launch=_norm_and_rotate_kernel,
    fits=lambda projected, q_weight, k_weight, cos, *_: (
        _same_type(projected, q_weight, k_weight)
        and cos.dtype == mx.float32
        and threads_for(q_weight.shape[0], projected.dtype) is not None
    ),
    sample=lambda projected, q_weight, k_weight, cos, _sin, eps: (
        _sample_rows(projected, 0),
        random_array(q_weight.shape, q_weight.dtype, 1),
        random_array(k_weight.shape, k_weight.dtype, 2),
        mx.cos(_sample_rows(cos, 3)),
        mx.sin(_sample_rows(cos, 3)),
        eps,
    ),
)
"""Compute queries and keys (B, N, D) from the product (B, N, 3·D), which includes the values too: each RMS-normalized
over all heads with its weight (D,), and rotated. Arguments: the product, both weights, cosines and sines (1 or B, N,
D / 2), the norm's epsilon.
"""


def _bias_gelu_plain(hidden: mx.array, bias: mx.array) -> mx.array:
    return nn.gelu_approx(hidden + bias)


def _bias_gelu_kernel(hidden: mx.array, bias: mx.array) -> mx.array:
    channels = hidden.shape[-1]
    flat = hidden.reshape(-1, channels)
    threads = 256
    vector = chunk_size(hidden.dtype)
    (activated,) = BIAS_GELU(
        flat,
        bias,
        groups=-(-flat.size // (vector * threads)),
        threads=threads,
        shapes=[hidden.shape],
        T=hidden.dtype,
        D=channels,
    )
    return activated


bias_gelu = Operation(
    "bias_gelu",
    plain=_bias_gelu_plain,
    launch=_bias_gelu_kernel,
    fits=lambda hidden, bias: _same_type(hidden, bias) and hidden.shape[-1] % 8 == 0,
    sample=lambda hidden, bias: (_sample_rows(hidden, 0), random_array(bias.shape, bias.dtype, 1)),
)
"""Compute gelu(hidden + bias) in its tanh approximation. Arguments: hidden (…, D), bias (D,)."""
