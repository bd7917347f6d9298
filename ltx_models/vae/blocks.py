"""What the VAE is made of. Videos are (B, F, H, W, C) here: MLX convolves with channels last."""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn

from ltx_models.embeddings import TimestepEmbedder

__all__ = [
    "WHOLE",
    "CausalConv3d",
    "DepthToSpaceUpsample",
    "ResBlocks",
    "ResnetBlock3D",
    "Stream",
    "pixel_norm",
    "space_from_channels",
]

PIXEL_NORM_EPS = 1e-8
SHORTCUT_NORM_EPS = 1e-6
KERNEL = 3


def pixel_norm(x: mx.array) -> mx.array:
    """Each position's channels divided by their root mean square."""
    return mx.fast.rms_norm(x, None, PIXEL_NORM_EPS)


def space_from_channels(x: mx.array, stride: tuple[int, int, int]) -> mx.array:
    """Depth to space: channels ordered (c, t, y, x) become `stride` times as many frames, rows and columns."""
    b, f, h, w, _ = x.shape
    st, sy, sx = stride
    x = x.reshape(b, f, h, w, -1, st, sy, sx).transpose(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(b, f * st, h * sy, w * sx, -1)


class Stream:
    """A video's way through a layer in chunks of frames: what the layer must remember from one chunk to the next.

    first, last: whether the chunk at hand begins or ends the video. A layer that sees the frame after the one that it
    computes gives fewer frames than it takes of the first chunk, and more of the last; it must be given enough to give
    at least one.
    """

    def __init__(self) -> None:
        self.first = True
        self.last = False
        self.kept: dict[tuple[int, str], mx.array] = {}

    def with_context(self, layer: nn.Module, x: mx.array, before: int, after: int) -> mx.array:
        """`x` between the frames that a convolution sees besides it: the video's own, at its ends the edge repeated."""
        start = [x[:, :1]] * before if self.first else [self.kept.pop((id(layer), "context"))]
        end = [x[:, -1:]] * after if self.last else []
        x = mx.concatenate([*start, x, *end], axis=1)
        if not self.last:
            self.kept[id(layer), "context"] = _copy(x[:, x.shape[1] - before - after :])
        return x

    def delayed(self, layer: nn.Module, x: mx.array, frames: int) -> mx.array:
        """The next `frames` of the layer's input, which its convolutions are behind; keeps the others."""
        if not self.first:
            x = mx.concatenate([self.kept.pop((id(layer), "delayed")), x], axis=1)
        if not self.last:
            self.kept[id(layer), "delayed"] = _copy(x[:, frames:])
        return x[:, :frames]


def _copy(x: mx.array) -> mx.array:
    """A slice would keep all of its array's memory alive."""
    return x + 0


class _WholeVideo(Stream):
    """A video that is a single chunk: nothing to remember."""

    def __init__(self) -> None:
        super().__init__()
        self.last = True


WHOLE = _WholeVideo()


class CausalConv3d(nn.Module):
    """A 3x3x3 convolution that keeps the size: edge frames repeated, rows and columns padded with zeros.

    Causal: two frames before. Not causal: one on either side.
    """

    def __init__(self, in_channels: int, out_channels: int, *, causal: bool) -> None:
        super().__init__()
        self.frames_before = KERNEL - 1 if causal else KERNEL // 2
        self.frames_after = KERNEL - 1 - self.frames_before
        self.conv = nn.Conv3d(in_channels, out_channels, KERNEL, padding=(0, KERNEL // 2, KERNEL // 2))

    def __call__(self, x: mx.array, stream: Stream = WHOLE) -> mx.array:
        """(B, F, H, W, in_channels) → (B, F, H, W, out_channels)."""
        return self.conv(stream.with_context(self, x, self.frames_before, self.frames_after))


class PointwiseConv3d(nn.Module):
    """A 1x1x1 convolution, computed as the matrix product that it is."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = mx.zeros((out_channels, 1, 1, 1, in_channels))
        self.bias = mx.zeros((out_channels,))

    def __call__(self, x: mx.array) -> mx.array:
        return x @ self.weight.flatten(1).T + self.bias


class ResnetBlock3D(nn.Module):
    """norm, SiLU, convolution, twice, added to the input, which is projected where the channels change."""

    def __init__(self, in_channels: int, out_channels: int, *, causal: bool, timestep_conditioning: bool) -> None:
        super().__init__()
        self.conv1 = CausalConv3d(in_channels, out_channels, causal=causal)
        self.conv2 = CausalConv3d(out_channels, out_channels, causal=causal)
        if timestep_conditioning:
            self.scale_shift_table = mx.zeros((4, in_channels))
        self.has_shortcut = in_channels != out_channels
        if self.has_shortcut:
            self.norm3 = {"norm": nn.LayerNorm(in_channels, eps=SHORTCUT_NORM_EPS)}
            self.conv_shortcut = PointwiseConv3d(in_channels, out_channels)

    def __call__(self, x: mx.array, embedded: mx.array | None = None, stream: Stream = WHOLE) -> mx.array:
        """x: (B, F, H, W, C); embedded: the timestep, (B, 4C), for a block that is conditioned on it."""
        shift1 = scale1 = shift2 = scale2 = None
        if embedded is not None:
            values = self.scale_shift_table + embedded.reshape(len(embedded), 4, -1)
            shift1, scale1, shift2, scale2 = (values[:, row, None, None, None] for row in range(4))
        h = self.conv1(nn.silu(modulate(pixel_norm(x), shift1, scale1)), stream)
        h = self.conv2(nn.silu(modulate(pixel_norm(h), shift2, scale2)), stream)
        x = stream.delayed(self, x, h.shape[1])
        if self.has_shortcut:
            x = self.conv_shortcut(self.norm3["norm"](x))
        return x + h


def modulate(x: mx.array, shift: mx.array | None, scale: mx.array | None) -> mx.array:
    """x·(1 + scale) + shift, or x where there is no timestep to follow."""
    return x if shift is None or scale is None else x * (1 + scale) + shift


class ResBlocks(nn.Module):
    """`res_x`: residual blocks of one width, which share one embedding of the timestep."""

    def __init__(self, channels: int, num_layers: int, *, causal: bool, timestep_conditioning: bool) -> None:
        super().__init__()
        self.res_blocks = [
            ResnetBlock3D(channels, channels, causal=causal, timestep_conditioning=timestep_conditioning)
            for _ in range(num_layers)
        ]
        if timestep_conditioning:
            self.time_embedder = TimestepEmbedder(4 * channels)

    def embed(self, timestep: mx.array | None) -> mx.array | None:
        """timestep: (B,), scaled, or None for a VAE that is not conditioned on it → what its blocks are given."""
        return None if timestep is None else self.time_embedder(timestep)

    def __call__(self, x: mx.array, timestep: mx.array | None) -> mx.array:
        """All blocks, one after another."""
        embedded = self.embed(timestep)
        for block in self.res_blocks:
            x = block(x, embedded)
        return x


class DepthToSpaceUpsample(nn.Module):
    """`compress_*`, in the decoder: a convolution whose extra channels become frames, rows and columns.

    Where time doubles, the first frame is dropped, so that 1 + n frames become 1 + 2n. `multiplier` divides the
    channels; `residual` adds the input itself, spread out the same way.
    """

    def __init__(
        self, channels: int, stride: tuple[int, int, int], *, multiplier: int, residual: bool, causal: bool
    ) -> None:
        super().__init__()
        factor = math.prod(stride) // multiplier
        self.stride = stride
        self.residual_repeats = factor if residual else 0
        self.conv = CausalConv3d(channels, channels * factor, causal=causal)

    def __call__(self, x: mx.array, stream: Stream = WHOLE) -> mx.array:
        """(B, F, H, W, C) → (B, tF - t + 1, yH, xW, C / multiplier), for a stride (t, y, x)."""
        h = self.conv(x, stream)
        dropped = self.stride[0] - 1 if stream.first else 0
        up = space_from_channels(h, self.stride)[:, dropped:]
        if self.residual_repeats:
            skip = space_from_channels(stream.delayed(self, x, h.shape[1]), self.stride)[:, dropped:]
            up = up + mx.tile(skip, (1, 1, 1, 1, self.residual_repeats))
        return up
