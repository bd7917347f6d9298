"""The layers of the VAE. Videos are (B, F, H, W, C) here: MLX convolves with channels last."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ltx_models.kernels import activate, add_delayed
from ltx_models.layers.timestep import TimestepEmbedder
from ltx_models.vae.stream import WHOLE, Stream

__all__ = [
    "PADDINGS",
    "WHOLE",
    "AttentionResBlocks",
    "BlockNoise",
    "CausalConv3d",
    "DepthToSpaceUpsample",
    "ResBlocks",
    "ResnetBlock3D",
    "SpaceToDepthDownsample",
    "Stream",
    "channels_from_space",
    "of_channels",
    "pixel_norm",
    "space_from_channels",
]

PIXEL_NORM_EPS = 1e-8
SHORTCUT_NORM_EPS = 1e-6
ATTENTION_NORM_EPS = 1e-5
KERNEL = 3
PADDINGS = ("zeros", "replicate", "reflect")
"""The paddings of convolutions at the edges of a frame. In time it is always the edge frame, repeated."""

BlockNoise = Callable[[int, int], mx.array]
"""A function that returns the noise (H, W) of a residual block, given which of its convolutions (0, 1) it follows, and
the height there.
"""


def pixel_norm(x: mx.array) -> mx.array:
    """Divide each position's channels by their root mean square."""
    return mx.fast.rms_norm(x, None, PIXEL_NORM_EPS)


def space_from_channels(x: mx.array, stride: tuple[int, int, int]) -> mx.array:
    """Depth to space: turn channels ordered (c, t, y, x) into `stride` times as many frames, rows and columns."""
    b, f, h, w, _ = x.shape
    st, sy, sx = stride
    x = x.reshape(b, f, h, w, -1, st, sy, sx).transpose(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(b, f * st, h * sy, w * sx, -1)


def channels_from_space(x: mx.array, stride: tuple[int, int, int]) -> mx.array:
    """Space to depth, the inverse of `space_from_channels`."""
    b, f, h, w, c = x.shape
    st, sy, sx = stride
    x = x.reshape(b, f // st, st, h // sy, sy, w // sx, sx, c).transpose(0, 1, 3, 5, 7, 2, 4, 6)
    return x.reshape(*x.shape[:4], -1)


def pad_reflecting(x: mx.array, axis: int) -> mx.array:
    """Pad by one position at either end: the neighbour of the edge, or the edge itself where there is none."""
    size = x.shape[axis]
    inner = min(1, size - 1)
    before, after = (mx.take(x, mx.array([at]), axis) for at in (inner, size - 1 - inner))
    return mx.concatenate([before, x, after], axis=axis)


def convolved_by_products(x: mx.array, weight: mx.array) -> mx.array:
    """Return a convolution with stride 1 and no padding, as a matrix product for each position of the kernel.

    That is fastest on a CPU, and takes no memory to unfold the input.

    Args:
        x: (B, F, H, W, C).
        weight: (O, t, y, x, C).
    """
    sizes = weight.shape[1:4]
    kernels = mx.contiguous(weight.transpose(1, 2, 3, 4, 0))
    frames, height, width = (have - size + 1 for have, size in zip(x.shape[1:4], sizes, strict=True))
    total = None
    for t, row, column in itertools.product(*map(range, sizes)):
        seen = x[:, t : t + frames, row : row + height, column : column + width].reshape(-1, x.shape[-1])
        kernel = kernels[t, row, column]
        total = seen @ kernel if total is None else mx.addmm(total, seen, kernel)
    assert total is not None
    return total.reshape(len(x), frames, height, width, -1)


class CausalConv3d(nn.Module):
    """A 3x3x3 convolution: edge frames are repeated, rows and columns padded by one as `padding` says (see PADDINGS).

    Causal: two frames before. Not causal: one on either side. With a stride (t, y, x) of 1 it keeps the size; with
    another it computes only every t-th frame, y-th row and x-th column, from the first.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        causal: bool,
        padding: str = "zeros",
        stride: tuple[int, int, int] = (1, 1, 1),
    ) -> None:
        super().__init__()
        self.frames_before = KERNEL - 1 if causal else KERNEL // 2
        self.frames_after = KERNEL - 1 - self.frames_before
        self.padding = padding
        zeros = KERNEL // 2 if padding == "zeros" else 0
        self.conv = nn.Conv3d(in_channels, out_channels, KERNEL, stride=stride, padding=(0, zeros, zeros))

    def __call__(self, x: mx.array, stream: Stream = WHOLE) -> mx.array:
        """Return the convolution: (B, F, H, W, in_channels) → (B, F, H, W, out_channels)."""
        is_picture = self._is_picture(x, stream)
        if not is_picture:
            context, before, after = stream.edges(self, self.frames_before, self.frames_after)
            start = [x[:, :1]] * before if context is None else [context]
            x = mx.concatenate([*start, x, *[x[:, -1:]] * after], axis=1)
            stream.keep(self, x, self.frames_before + self.frames_after)
        return self._convolved(x, is_picture=is_picture) + self.conv.bias

    def of_activated(
        self,
        x: mx.array,
        bias: mx.array | None,
        shift: mx.array | None,
        scale: mx.array | None,
        stream: Stream,
    ) -> mx.array:
        """Return the convolution, without its bias, of SiLU(modulated(pixel_norm(x + bias))): see `activate`."""
        is_picture = self._is_picture(x, stream)
        if is_picture:
            x = activate(x, bias, shift, scale, None, 0, 0, PIXEL_NORM_EPS)
        else:
            edges = stream.edges(self, self.frames_before, self.frames_after)
            x = activate(x, bias, shift, scale, *edges, PIXEL_NORM_EPS)
            stream.keep(self, x, self.frames_before + self.frames_after)
        return self._convolved(x, is_picture=is_picture)

    @staticmethod
    def _is_picture(x: mx.array, stream: Stream) -> bool:
        return stream.first and stream.last and x.shape[1] == 1

    def _convolved(self, x: mx.array, *, is_picture: bool) -> mx.array:
        """Return the convolution of frames with their context, or of a picture.

        A picture is a frame repeated in time, so it is convolved by the weights' sum over time: a third of the work.
        """
        if self.padding == "replicate":
            x = mx.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)], mode="edge")
        elif self.padding == "reflect":
            x = pad_reflecting(pad_reflecting(x, 2), 3)
        weight, stride, padding = self.conv.weight, self.conv.stride, self.conv.padding
        if mx.default_device() == mx.cpu and stride == (1, 1, 1) and not is_picture:
            return convolved_by_products(mx.pad(x, [(0, 0), *((side, side) for side in padding), (0, 0)]), weight)
        if is_picture:
            return mx.conv2d(x[:, 0], weight.sum(1), stride=stride[1:], padding=padding[1:])[:, None]
        return mx.conv3d(x, weight, stride=stride, padding=padding)


class PointwiseConv3d(nn.Module):
    """A 1x1x1 convolution, computed as a matrix product."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = mx.zeros((out_channels, 1, 1, 1, in_channels))
        self.bias = mx.zeros((out_channels,))

    def __call__(self, x: mx.array) -> mx.array:
        return x @ self.weight.flatten(1).T + self.bias


class ResnetBlock3D(nn.Module):
    """A residual block: twice norm, SiLU and convolution, added to the input, which is projected where channels change.

    With `inject_noise`, noise is added to each convolution's result, the same for all frames, scaled for each channel
    (StyleGAN's explicit noise inputs, Karras et al., 2019).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        causal: bool,
        timestep_conditioning: bool,
        padding: str = "zeros",
        inject_noise: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = CausalConv3d(in_channels, out_channels, causal=causal, padding=padding)
        self.conv2 = CausalConv3d(out_channels, out_channels, causal=causal, padding=padding)
        if inject_noise:
            self.per_channel_scale1 = mx.zeros((out_channels, 1, 1))
            self.per_channel_scale2 = mx.zeros((out_channels, 1, 1))
        self.inject_noise = inject_noise
        if timestep_conditioning:
            self.scale_shift_table = mx.zeros((4, in_channels))
        self.has_shortcut = in_channels != out_channels
        if self.has_shortcut:
            self.norm3 = {"norm": nn.LayerNorm(in_channels, eps=SHORTCUT_NORM_EPS)}
            self.conv_shortcut = PointwiseConv3d(in_channels, out_channels)

    def __call__(
        self,
        x: mx.array,
        embedded: mx.array | None = None,
        stream: Stream = WHOLE,
        noise: BlockNoise | None = None,
    ) -> mx.array:
        """Return the block's output for frames (B, F, H, W, C).

        Args:
            x: The frames.
            embedded: The timestep's embedding, (B, 4C), for a block that is conditioned on it; else None.
            stream: The stream that the frames are a chunk of.
            noise: The noise for a block that injects it; None injects none.
        """
        shift1 = scale1 = shift2 = scale2 = None
        if embedded is not None:
            values = self.scale_shift_table + embedded.reshape(len(embedded), 4, -1)
            shift1, scale1, shift2, scale2 = (of_channels(values[:, row]) for row in range(4))
        h = self.conv1.of_activated(x, None, shift1, scale1, stream)
        if self.inject_noise and noise:
            h = h + _scaled(noise(0, h.shape[2]), self.per_channel_scale1, h.dtype)
        h = self.conv2.of_activated(h, self.conv1.conv.bias, shift2, scale2, stream)
        bias = self.conv2.conv.bias
        if self.inject_noise and noise:
            h = h + _scaled(noise(1, h.shape[2]), self.per_channel_scale2, h.dtype)
        if self.has_shortcut:
            x = stream.delayed(self, x, h.shape[1])
            return add_delayed(None, self.conv_shortcut(self.norm3["norm"](x)), h, bias)
        return add_delayed(stream.behind(self, x, h.shape[1]), x, h, bias)


def of_channels(values: mx.array) -> mx.array:
    """Return a shift or a scale (B, C) in a shape that broadcasts to frames; (C,) where B is 1."""
    return values[0] if len(values) == 1 else values[:, None, None, None]


def _scaled(noise: mx.array, per_channel_scale: mx.array, dtype: mx.Dtype) -> mx.array:
    """Return noise (H, W) times a scale (C, 1, 1), as (H, W, C)."""
    return noise[..., None].astype(dtype) * per_channel_scale.flatten()


class ResBlocks(nn.Module):
    """`res_x`: residual blocks of one width, which share an embedding of the timestep.

    `options` are ResnetBlock3D's.
    """

    def __init__(self, channels: int, num_layers: int, *, timestep_conditioning: bool, **options: Any) -> None:
        super().__init__()
        self.res_blocks = [
            ResnetBlock3D(channels, channels, timestep_conditioning=timestep_conditioning, **options)
            for _ in range(num_layers)
        ]
        if timestep_conditioning:
            self.time_embedder = TimestepEmbedder(4 * channels)

    def embed(self, timestep: mx.array | None) -> mx.array | None:
        """Return the embedding of scaled timesteps (B,); None where the VAE is not conditioned on them."""
        return None if timestep is None else self.time_embedder(timestep)

    def __call__(self, x: mx.array, timestep: mx.array | None = None) -> mx.array:
        """Run all blocks, one after another."""
        embedded = self.embed(timestep)
        for block in self.res_blocks:
            x = block(x, embedded)
            mx.eval(x)  # otherwise the arrays within all blocks would be in memory at once
        return x


class AttentionResBlocks(ResBlocks):
    """`attn_res_x`: like `res_x`, with attention over all positions of the video after each residual block."""

    def __init__(self, channels: int, num_layers: int, *, attention_head_dim: int, **options: Any) -> None:
        super().__init__(channels, num_layers, **options)
        self.attention_blocks = [VideoAttention(channels, attention_head_dim) for _ in range(num_layers)]


class VideoAttention(nn.Module):
    """Multi-head self-attention over all positions of all frames, added to its input."""

    def __init__(self, channels: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        inner = channels // head_dim * head_dim
        self.to_q = nn.Linear(channels, inner)
        self.to_k = nn.Linear(channels, inner)
        self.to_v = nn.Linear(channels, inner)
        self.to_out = [nn.Linear(inner, channels)]
        self.q_norm = nn.RMSNorm(inner, eps=ATTENTION_NORM_EPS)
        self.k_norm = nn.RMSNorm(inner, eps=ATTENTION_NORM_EPS)

    def __call__(self, x: mx.array, stream: Stream = WHOLE) -> mx.array:
        """Return the output for frames (B, F, H, W, C); of a stream, no frames before the last chunk, and then all."""
        x = stream.gathered(self, x)
        if not stream.last:
            return x[:, :0]
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])
        projected = (self.q_norm(self.to_q(tokens)), self.k_norm(self.to_k(tokens)), self.to_v(tokens))
        q, k, v = (y.reshape(*y.shape[:2], -1, self.head_dim).swapaxes(1, 2) for y in projected)
        out = mx.fast.scaled_dot_product_attention(q, k, v, scale=self.head_dim**-0.5)
        return x + self.to_out[0](out.swapaxes(1, 2).flatten(2)).reshape(x.shape)


class DepthToSpaceUpsample(nn.Module):
    """`compress_*`, in the decoder: a convolution whose extra channels become frames, rows and columns.

    Where time doubles, the first frame is dropped, so that 1 + n frames become 1 + 2n. `multiplier` divides the
    channels; `residual` adds the input itself, reshaped the same way.
    """

    def __init__(
        self,
        channels: int,
        stride: tuple[int, int, int],
        *,
        multiplier: int,
        residual: bool,
        causal: bool,
        padding: str = "zeros",
    ) -> None:
        super().__init__()
        factor = math.prod(stride) // multiplier
        self.stride = stride
        self.residual_repeats = factor if residual else 0
        self.conv = CausalConv3d(channels, channels * factor, causal=causal, padding=padding)

    def __call__(self, x: mx.array, stream: Stream = WHOLE) -> mx.array:
        """Return (B, tF - t + 1, yH, xW, C / multiplier) for frames (B, F, H, W, C) and a stride (t, y, x)."""
        h = self.conv(x, stream)
        dropped = self.stride[0] - 1 if stream.first else 0
        up = space_from_channels(h, self.stride)[:, dropped:]
        if self.residual_repeats:
            skip = space_from_channels(stream.delayed(self, x, h.shape[1]), self.stride)[:, dropped:]
            up = up + mx.tile(skip, (1, 1, 1, 1, self.residual_repeats))
        return up


class SpaceToDepthDownsample(nn.Module):
    """`compress_*_res`, in the encoder: a convolution whose frames, rows and columns become channels.

    It is added to the input itself, folded the same way, whose channels are averaged in groups. Where time halves, the
    first frame is doubled, so that 1 + 2n frames become 1 + n.
    """

    def __init__(self, channels: int, stride: tuple[int, int, int], *, multiplier: int, padding: str = "zeros") -> None:
        super().__init__()
        self.stride = stride
        self.out_channels = channels * multiplier
        self.conv = CausalConv3d(channels, self.out_channels // math.prod(stride), causal=True, padding=padding)

    def __call__(self, x: mx.array) -> mx.array:
        """Return frames (B, (F - 1) / t + 1, H / y, W / x, C · multiplier), for a stride (t, y, x)."""
        x = mx.concatenate([x[:, :1]] * (self.stride[0] - 1) + [x], axis=1)
        folded = channels_from_space(x, self.stride)
        skip = folded.reshape(*folded.shape[:4], self.out_channels, -1).mean(axis=-1)
        return channels_from_space(self.conv(x), self.stride) + skip
