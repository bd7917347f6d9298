"""The operations between the VAE's convolutions. Frames are (1, F, H, W, C)."""

from __future__ import annotations

import functools

import mlx.core as mx
import mlx.nn as nn

from ltx_models.kernels import cuda, metal
from ltx_models.kernels.launch import Kernel, Operation, chunk_size, random_array
from ltx_models.kernels.rows import EPS_UNIT

__all__ = ["activate", "add_delayed"]

THREADS = 256
WARP = 32
MOST_ITEMS = 8
SAMPLE = (2, 2, 3)
"""Frames, rows and columns of the sample with which a kernel is checked."""

ACTIVATE = Kernel(
    "activate",
    ("frames", "bias", "shift", "scale", "context", "layout"),
    ("padded",),
    (cuda.HEADER, cuda.ACTIVATE),
    (metal.HEADER, metal.ACTIVATE),
)
ADD_DELAYED = Kernel(
    "add_delayed",
    ("kept", "frames", "branch", "bias", "count"),
    ("summed",),
    (cuda.HEADER, cuda.ADD_DELAYED),
    (metal.HEADER, metal.ADD_DELAYED),
)


@functools.lru_cache(maxsize=64)
def _layout(*numbers: int) -> mx.array:
    array = mx.array(numbers, mx.int32)
    mx.eval(array)
    return array


@functools.lru_cache(maxsize=64)
def _zeros(channels: int, dtype: mx.Dtype) -> mx.array:
    array = mx.zeros((channels,), dtype)
    mx.eval(array)
    return array


def _vector(channels: int, dtype: mx.Dtype) -> int | None:
    """Return the channels that a thread of a warp loads at once; None where kernels do not support so many."""
    size = chunk_size(dtype)
    while size > 1 and channels % (WARP * size):
        size //= 2
    return size if channels % WARP == 0 and channels // (WARP * size) <= MOST_ITEMS else None


def _fits(frames: mx.array, *vectors: mx.array | None) -> bool:
    alike = all(vector is None or (vector.dtype == frames.dtype and vector.ndim == 1) for vector in vectors)
    kernel = frames.dtype in (mx.float32, mx.float16, mx.bfloat16) and _vector(frames.shape[-1], frames.dtype)
    return alike and len(frames) == 1 and bool(kernel)


def _sample_frames(x: mx.array, seed: int) -> mx.array:
    return random_array((1, *SAMPLE, x.shape[-1]), x.dtype, seed)


def _sample_vector(x: mx.array | None, seed: int) -> mx.array | None:
    return None if x is None else random_array(x.shape, x.dtype, seed)


def _activate_plain(
    frames: mx.array,
    bias: mx.array | None,
    shift: mx.array | None,
    scale: mx.array | None,
    context: mx.array | None,
    before: int,
    after: int,
    eps: float,
) -> mx.array:
    x = mx.fast.rms_norm(frames if bias is None else frames + bias, None, eps)
    if shift is not None and scale is not None:
        x = x * (1 + scale) + shift
    x = nn.silu(x)
    if context is None and not before and not after:
        return x
    start = [] if context is None else [context]
    return mx.concatenate([*start, *[x[:, :1]] * before, x, *[x[:, -1:]] * after], axis=1)


def _activate_kernel(
    frames: mx.array,
    bias: mx.array | None,
    shift: mx.array | None,
    scale: mx.array | None,
    context: mx.array | None,
    before: int,
    after: int,
    eps: float,
) -> mx.array:
    _, count, height, width, channels = frames.shape
    none = _zeros(channels, frames.dtype)
    kept = 0 if context is None else context.shape[1]
    total = kept + before + count + after
    positions = height * width
    flat = frames.reshape(count, positions, channels)
    (padded,) = ACTIVATE(
        flat,
        *(none if vector is None else vector for vector in (bias, shift, scale)),
        flat if context is None else context.reshape(kept, positions, channels),
        _layout(kept, before, count, total),
        groups=-(-total * positions // (THREADS // WARP)),
        threads=THREADS,
        shapes=[(1, total, height, width, channels)],
        T=frames.dtype,
        D=channels,
        VEC=_vector(channels, frames.dtype) or 1,
        EPS=round(eps / EPS_UNIT),
    )
    return padded


activate = Operation(
    "activate",
    plain=_activate_plain,
    launch=_activate_kernel,
    fits=lambda frames, bias, shift, scale, *_: _fits(frames, bias, shift, scale),
    sample=lambda frames, bias, shift, scale, context, *rest: (
        _sample_frames(frames, 0),
        _sample_vector(bias, 1),
        _sample_vector(shift, 2),
        _sample_vector(scale, 3),
        None if context is None else _sample_frames(context, 4),
        *rest,
    ),
)
"""Compute SiLU of the RMS-normalized sum of frames and bias, times 1 + scale, plus shift, padded with the context
frames that a convolution needs. Arguments: frames; bias, shift and scale, each (C,) or None; frames that come
before, already activated, or None; how often the first frame is repeated before, and the last one after; epsilon.
"""


def _add_delayed_plain(kept: mx.array | None, frames: mx.array, branch: mx.array, bias: mx.array | None) -> mx.array:
    x = frames if kept is None else mx.concatenate([kept, frames], axis=1)
    return x[:, : branch.shape[1]] + (branch if bias is None else branch + bias)


def _add_delayed_kernel(kept: mx.array | None, frames: mx.array, branch: mx.array, bias: mx.array | None) -> mx.array:
    _, count, height, width, channels = branch.shape
    flat = (-1, height * width, channels)
    vector = chunk_size(branch.dtype)
    (summed,) = ADD_DELAYED(
        (frames if kept is None else kept).reshape(flat),
        frames.reshape(flat),
        branch.reshape(flat),
        _zeros(channels, branch.dtype) if bias is None else bias,
        _layout(0 if kept is None else kept.shape[1]),
        groups=-(-count * height * width * (channels // vector) // THREADS),
        threads=THREADS,
        shapes=[branch.shape],
        T=branch.dtype,
        VEC=vector,
    )
    return summed


add_delayed = Operation(
    "add_delayed",
    plain=_add_delayed_plain,
    launch=_add_delayed_kernel,
    fits=lambda _kept, frames, branch, bias: (
        _fits(branch, bias) and branch.shape[-1] % chunk_size(branch.dtype) == 0 and frames.dtype == branch.dtype
    ),
    sample=lambda kept, frames, branch, bias: (
        None if kept is None else random_array((1, kept.shape[1], *SAMPLE[1:], kept.shape[-1]), kept.dtype, 0),
        _sample_frames(frames, 1),
        _sample_frames(branch, 2),
        _sample_vector(bias, 3),
    ),
)
"""Add the output of a branch of convolutions, and its bias, to the branch's input, which is ahead of it by the frames
that the convolutions keep. Arguments: kept frames or None, frames, the branch's frames, its bias (C,) or None.
"""
