"""The VAE's decoder, built from the block list of a checkpoint's config."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from ltx_models.errors import CheckpointError
from ltx_models.layers.timestep import TimestepEmbedder
from ltx_models.vae.blocks import (
    WHOLE,
    AttentionResBlocks,
    BlockNoise,
    CausalConv3d,
    DepthToSpaceUpsample,
    ResBlocks,
    ResnetBlock3D,
    Stream,
    of_channels,
)
from ltx_models.vae.noise import InjectedNoise

__all__ = ["Decoder", "Layer"]


class Layer(NamedTuple):
    """A layer of the decoder.

    Attributes:
        run: Computes frames (B, F, H, W, C) from frames of a stream.
        channels: The largest number of channels that it computes at a position of its input.
    """

    run: Callable[[mx.array, Stream], mx.array]
    channels: int


RGB = 3
STRIDES = {"compress_time": (2, 1, 1), "compress_space": (1, 2, 2), "compress_all": (2, 2, 2)}
DEFAULT_MULTIPLIERS = {"res_x": 1, "attn_res_x": 1, "res_x_y": 2, **dict.fromkeys(STRIDES, 1)}
"""The factors by which blocks divide the channels where their parameters do not say; the keys are all kinds of blocks.
"""


class Decoder(nn.Module):
    """Latents (B, F, H, W, C) → pixels (B, 8(F-1)+1, 32H, 32W, 3) in about [-1, 1].

    `blocks` are pairs of a name and its parameters (or, in old files, its number of layers), listed from the pixels to
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
        padding: str = "zeros",
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.timestep_conditioning = timestep_conditioning
        steps = [(name, block_parameters(name, given)) for name, given in reversed(blocks)]
        channels = base_channels * math.prod(parameters["multiplier"] for _, parameters in steps)
        convolution: dict[str, Any] = {"causal": causal, "padding": padding}
        self.conv_in = CausalConv3d(latent_channels, channels, **convolution)
        self.up_blocks: list[nn.Module] = []
        for name, parameters in steps:
            self.up_blocks.append(_up_block(name, parameters, channels, timestep_conditioning, convolution))
            channels //= parameters["multiplier"]
        self.conv_out = CausalConv3d(channels, RGB * patch_size**2, **convolution)
        if timestep_conditioning:
            self.timestep_scale_multiplier = mx.array(1000.0)
            self.last_time_embedder = TimestepEmbedder(2 * channels)
            self.last_scale_shift_table = mx.zeros((2, channels))

    def __call__(
        self,
        x: mx.array,
        timestep: mx.array | None,
        noise: InjectedNoise | None = None,
        convert: Callable[[mx.array], mx.array] | None = None,
    ) -> mx.array:
        """Return the pixels of latents.

        Args:
            x: Latents that are not normalized.
            timestep: (B,) in [0, 1]; ignored by a decoder that is not conditioned on it.
            noise: The noise that blocks inject, where the config says that they do; None injects none.
            convert: A conversion of each pixel by itself, applied before pixels are put in their places.
        """
        for layer in self.layers(timestep, noise, convert):
            x = layer.run(x, WHOLE)
        return x

    def layers(
        self,
        timestep: mx.array | None,
        noise: InjectedNoise | None = None,
        convert: Callable[[mx.array], mx.array] | None = None,
    ) -> list[Layer]:
        """Return the layers of a decode, to be run one after another on a whole video or on chunks of its frames."""
        scaled = None
        if self.timestep_conditioning:
            assert timestep is not None
            scaled = timestep.astype(mx.float32) * self.timestep_scale_multiplier.astype(mx.float32)
        layers = [Layer(self.conv_in, _widest(self.conv_in))]
        for block in self.up_blocks:
            if isinstance(block, ResBlocks):
                embedded = block.embed(scaled)
                for index, resnet in enumerate(block.res_blocks):
                    layers.append(_residual(resnet, embedded, _of_block(noise, len(layers))))
                    if isinstance(block, AttentionResBlocks):
                        attention = block.attention_blocks[index]
                        layers.append(Layer(attention, 4 * attention.to_q.weight.shape[0]))
            elif isinstance(block, ResnetBlock3D):
                layers.append(_residual(block, None, _of_block(noise, len(layers))))
            else:
                assert isinstance(block, DepthToSpaceUpsample)
                layers.append(Layer(block, _widest(block.conv)))
        return [*layers, Layer(partial(self._pixels, scaled, convert), _widest(self.conv_out))]

    def _pixels(
        self,
        scaled_timestep: mx.array | None,
        convert: Callable[[mx.array], mx.array] | None,
        x: mx.array,
        stream: Stream,
    ) -> mx.array:
        shift = scale = None
        if scaled_timestep is not None:
            embedded = self.last_time_embedder(scaled_timestep).reshape(len(scaled_timestep), 2, -1)
            values = self.last_scale_shift_table + embedded
            shift, scale = (of_channels(values[:, row]) for row in range(2))
        pixels = self.conv_out.of_activated(x, None, shift, scale, stream) + self.conv_out.conv.bias
        return unpatchify(convert(pixels) if convert else pixels, self.patch_size)


def _up_block(
    name: str, parameters: dict[str, Any], channels: int, timestep_conditioning: bool, convolution: dict[str, Any]
) -> nn.Module:
    multiplier, residual = parameters["multiplier"], parameters.get("residual", False)
    if name in STRIDES:
        return DepthToSpaceUpsample(channels, STRIDES[name], multiplier=multiplier, residual=residual, **convolution)
    options = {"inject_noise": parameters.get("inject_noise", False), **convolution}
    if name == "res_x_y":
        return ResnetBlock3D(channels, channels // multiplier, timestep_conditioning=False, **options)
    options["timestep_conditioning"] = timestep_conditioning
    if name == "attn_res_x":
        head_dim = parameters["attention_head_dim"]
        return AttentionResBlocks(channels, parameters["num_layers"], attention_head_dim=head_dim, **options)
    return ResBlocks(channels, parameters["num_layers"], **options)


def _of_block(noise: InjectedNoise | None, index: int) -> BlockNoise | None:
    return noise.of_block(index) if noise else None


def _residual(block: ResnetBlock3D, embedded: mx.array | None, noise: BlockNoise | None) -> Layer:
    return Layer(lambda x, stream: block(x, embedded, stream, noise), _widest(block.conv1))


def _widest(conv: CausalConv3d) -> int:
    return max(conv.conv.weight.shape[0], conv.conv.weight.shape[-1])


def unpatchify(x: mx.array, size: int) -> mx.array:
    """Turn channels ordered (c, x, y), columns before rows, into patches of `size` by `size` pixels."""
    b, f, h, w, _ = x.shape
    x = x.reshape(b, f, h, w, -1, size, size).transpose(0, 1, 2, 6, 3, 5, 4)
    return x.reshape(b, f, h * size, w * size, -1)


def block_parameters(name: str, given: Any) -> dict[str, Any]:
    """Return a block's parameters with its multiplier filled in; a bare number is its `num_layers`."""
    if name not in DEFAULT_MULTIPLIERS:
        raise CheckpointError(
            f"the VAE config has a block {reprlib.repr(name)}; the decoder knows {', '.join(DEFAULT_MULTIPLIERS)}"
        )
    parameters = given if isinstance(given, dict) else {"num_layers": given}
    if name == "attn_res_x" and "attention_head_dim" not in parameters:
        raise CheckpointError("the VAE config has a block 'attn_res_x' that does not say its attention_head_dim")
    return {"multiplier": DEFAULT_MULTIPLIERS[name], "num_layers": 1, **parameters}
