"""The VAE's encoder, built from the block list of a checkpoint's config."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ltx_models.errors import CheckpointError
from ltx_models.vae.blocks import CausalConv3d, ResBlocks, ResnetBlock3D, SpaceToDepthDownsample, pixel_norm

__all__ = ["Encoder"]

RGB = 3
STRIDES = {"compress_time": (2, 1, 1), "compress_space": (1, 2, 2), "compress_all": (2, 2, 2)}
RESIDUAL = {f"{name}_res": stride for name, stride in STRIDES.items()}
WIDENING = {**dict.fromkeys(["res_x", *STRIDES], 1), **dict.fromkeys(["res_x_y", "compress_all_x_y", *RESIDUAL], 2)}
"""The factors by which blocks multiply the channels where their parameters do not say; blocks of factor 1 ignore their
parameters. The keys are all kinds of blocks.
"""
LOG_VARIANCES = {"uniform": 1, "constant": 1, "none": 0}
"""Channels of the last convolution for the log variance; in other cases there are as many as latent channels."""


class Encoder(nn.Module):
    """Pixels (B, F, H, W, 3) in [-1, 1], 8n+1 frames → the mean of their latents (B, n+1, H/32, W/32, C).

    All convolutions are causal, so that a picture alone is encoded as a video's first frame is. `blocks` are pairs of a
    name and its parameters (or, in old files, its number of layers), from the pixels to the latents.
    """

    def __init__(
        self,
        blocks: Sequence[tuple[str, Any]],
        *,
        latent_channels: int,
        base_channels: int,
        patch_size: int,
        log_variance: str,
        padding: str = "zeros",
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.latent_channels = latent_channels
        channels = base_channels
        self.conv_in = CausalConv3d(RGB * patch_size**2, channels, causal=True, padding=padding)
        self.down_blocks: list[nn.Module] = []
        for name, given in blocks:
            wider = channels * _multiplier(name, given)
            self.down_blocks.append(_down_block(name, given, channels, wider, padding))
            channels = wider
        out_channels = latent_channels + LOG_VARIANCES.get(log_variance, latent_channels)
        self.conv_out = CausalConv3d(channels, out_channels, causal=True, padding=padding)

    def __call__(self, x: mx.array) -> mx.array:
        """Return the mean of the latents, without the log variance."""
        x = self.conv_in(patchify(x, self.patch_size))
        for block in self.down_blocks:
            x = block(x)
            mx.eval(x)  # the first blocks' results are large: keep one at a time
        return self.conv_out(nn.silu(pixel_norm(x)))[..., : self.latent_channels]


def _down_block(name: str, given: Any, channels: int, wider: int, padding: str) -> nn.Module:
    if name in RESIDUAL:
        return SpaceToDepthDownsample(channels, RESIDUAL[name], multiplier=wider // channels, padding=padding)
    if name == "res_x_y":
        return ResnetBlock3D(channels, wider, causal=True, timestep_conditioning=False, padding=padding)
    if name == "res_x":
        layers = given["num_layers"] if isinstance(given, dict) else given
        return ResBlocks(channels, layers, causal=True, timestep_conditioning=False, padding=padding)
    stride = STRIDES[name.removesuffix("_x_y")]
    return CausalConv3d(channels, wider, causal=True, padding=padding, stride=stride)


def _multiplier(name: str, given: Any) -> int:
    if name not in WIDENING:
        raise CheckpointError(
            f"the VAE config has a block {reprlib.repr(name)}; the encoder knows {', '.join(WIDENING)}"
        )
    default = WIDENING[name]
    return int(given.get("multiplier", default)) if default > 1 and isinstance(given, dict) else default


def patchify(x: mx.array, size: int) -> mx.array:
    """Turn patches of `size` by `size` pixels into channels ordered (c, x, y): columns before rows."""
    b, f, h, w, c = x.shape
    x = x.reshape(b, f, h // size, size, w // size, size, c).transpose(0, 1, 2, 4, 6, 5, 3)
    return x.reshape(*x.shape[:4], -1)
