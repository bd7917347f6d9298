"""The VAE's decoder, built from the block list of a checkpoint's config."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from ltx_models.embeddings import TimestepEmbedder
from ltx_models.errors import CheckpointError
from ltx_models.vae.blocks import (
    WHOLE,
    CausalConv3d,
    DepthToSpaceUpsample,
    ResBlocks,
    ResnetBlock3D,
    Stream,
    modulate,
    pixel_norm,
)

__all__ = ["Decoder", "Layer"]


class Layer(NamedTuple):
    """One step of the decoder.

    run: frames (B, F, H, W, C) of a stream → frames.  channels: the most that it computes at a position of its input.
    """

    run: Callable[[mx.array, Stream], mx.array]
    channels: int


RGB = 3
STRIDES = {"compress_time": (2, 1, 1), "compress_space": (1, 2, 2), "compress_all": (2, 2, 2)}
DEFAULT_MULTIPLIERS = {"res_x": 1, "res_x_y": 2, "compress_time": 1, "compress_space": 1, "compress_all": 1}
"""By how much a block divides the channels where its parameters don't say; its keys are the blocks there are."""


class Decoder(nn.Module):
    """Latents (B, F, H, W, C) → pixels (B, 8(F-1)+1, 32H, 32W, 3) in about [-1, 1].

    blocks: pairs of a name and its parameters (or, in old files, its number of layers), listed from the pixels to
    the latents, so the decoder runs them backwards, from `base_channels` times all multipliers down to it.
    """

    def __init__(
        self,
        blocks: Sequence[tuple[str, Any]],
        *,
        latent_channels: int,
        base_channels: int,
        patch_size: int,
        causal: bool,
        timestep_conditioning: bool,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.timestep_conditioning = timestep_conditioning
        steps = [(name, block_parameters(name, given)) for name, given in reversed(blocks)]
        channels = base_channels * math.prod(parameters["multiplier"] for _, parameters in steps)
        self.conv_in = CausalConv3d(latent_channels, channels, causal=causal)
        self.up_blocks: list[nn.Module] = []
        for name, parameters in steps:
            narrower = channels // parameters["multiplier"]
            if name == "res_x":
                layers = parameters["num_layers"]
                block: nn.Module = ResBlocks(
                    channels, layers, causal=causal, timestep_conditioning=timestep_conditioning
                )
            elif name == "res_x_y":
                block = ResnetBlock3D(channels, narrower, causal=causal, timestep_conditioning=False)
            else:
                block = DepthToSpaceUpsample(
                    channels,
                    STRIDES[name],
                    multiplier=parameters["multiplier"],
                    residual=parameters.get("residual", False),
                    causal=causal,
                )
            self.up_blocks.append(block)
            channels = narrower
        self.conv_out = CausalConv3d(channels, RGB * patch_size**2, causal=causal)
        if timestep_conditioning:
            self.timestep_scale_multiplier = mx.array(1000.0)
            self.last_time_embedder = TimestepEmbedder(2 * channels)
            self.last_scale_shift_table = mx.zeros((2, channels))

    def __call__(self, x: mx.array, timestep: mx.array | None) -> mx.array:
        """timestep: (B,) in [0, 1]; ignored by a decoder that is not conditioned on it."""
        for layer in self.layers(timestep):
            x = layer.run(x, WHOLE)
        return x

    def layers(self, timestep: mx.array | None) -> list[Layer]:
        """The steps of a decode, which can be run one after another on a whole video or on chunks of its frames."""
        scaled = None
        if self.timestep_conditioning:
            assert timestep is not None
            scaled = timestep.astype(mx.float32) * self.timestep_scale_multiplier.astype(mx.float32)
        layers = [Layer(self.conv_in, _widest(self.conv_in))]
        for block in self.up_blocks:
            if isinstance(block, ResBlocks):
                embedded = block.embed(scaled)
                layers += [_residual(resnet, embedded) for resnet in block.res_blocks]
            elif isinstance(block, ResnetBlock3D):
                layers.append(_residual(block, None))
            else:
                assert isinstance(block, DepthToSpaceUpsample)
                layers.append(Layer(block, _widest(block.conv)))
        return [*layers, Layer(partial(self._pixels, scaled), _widest(self.conv_out))]

    def _pixels(self, scaled_timestep: mx.array | None, x: mx.array, stream: Stream) -> mx.array:
        shift = scale = None
        if scaled_timestep is not None:
            embedded = self.last_time_embedder(scaled_timestep).reshape(len(scaled_timestep), 2, -1)
            values = self.last_scale_shift_table + embedded
            shift, scale = (values[:, row, None, None, None] for row in range(2))
        return unpatchify(self.conv_out(nn.silu(modulate(pixel_norm(x), shift, scale)), stream), self.patch_size)


def _residual(block: ResnetBlock3D, embedded: mx.array | None) -> Layer:
    return Layer(lambda x, stream: block(x, embedded, stream), _widest(block.conv1))


def _widest(conv: CausalConv3d) -> int:
    return max(conv.conv.weight.shape[0], conv.conv.weight.shape[-1])


def unpatchify(x: mx.array, size: int) -> mx.array:
    """Channels ordered (c, x, y), columns before rows, become patches of `size` by `size` pixels."""
    b, f, h, w, _ = x.shape
    x = x.reshape(b, f, h, w, -1, size, size).transpose(0, 1, 2, 6, 3, 5, 4)
    return x.reshape(b, f, h * size, w * size, -1)


def block_parameters(name: str, given: Any) -> dict[str, Any]:
    """A block's parameters with its multiplier filled in; a bare number is its `num_layers`."""
    if name not in DEFAULT_MULTIPLIERS:
        raise CheckpointError(
            f"the VAE config has a block {name!r}; the decoder knows {', '.join(DEFAULT_MULTIPLIERS)}"
        )
    parameters = given if isinstance(given, dict) else {"num_layers": given}
    return {"multiplier": DEFAULT_MULTIPLIERS[name], "num_layers": 1, **parameters}
