"""The VAE as a whole, as it lies in a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ltx_models.checkpoint import Checkpoint, Weights, load_weights, parse_config
from ltx_models.errors import CheckpointError
from ltx_models.vae.decoder import Decoder

__all__ = ["VAE", "VAEConfig", "load_vae"]

STATISTICS = "per_channel_statistics"
MEAN, STD = "mean-of-means", "std-of-means"


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """The fields of a checkpoint's `vae` config that the model depends on.

    Blocks are pairs of a name and its parameters, listed from the pixels to the latents; `blocks` is the older
    layout, where encoder and decoder share one list.
    """

    latent_channels: int
    patch_size: int = 4
    blocks: Sequence[tuple[str, Any]] = ()
    decoder_blocks: Sequence[tuple[str, Any]] = ()
    decoder_base_channels: int = 128
    causal_decoder: bool = False
    timestep_conditioning: bool = False


SUPPORTED: dict[str, Any] = {
    "dims": 3,
    "in_channels": 3,
    "out_channels": 3,
    "norm_layer": "pixel_norm",
    "scaling_factor": 1.0,
    "spatial_padding_mode": "zeros",
    "use_quant_conv": False,
}


class VAE(nn.Module):
    """Normalized latents ↔ pixels: each latent channel has mean 0 and deviation 1 outside, its own inside."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.latent_channels
        self.per_channel_statistics = {MEAN: mx.zeros((channels,)), STD: mx.ones((channels,))}
        self.decoder = Decoder(
            config.decoder_blocks or config.blocks,
            latent_channels=channels,
            base_channels=config.decoder_base_channels,
            patch_size=config.patch_size,
            causal=config.causal_decoder,
            timestep_conditioning=config.timestep_conditioning,
        )

    def decode(self, latents: mx.array, timestep: float) -> mx.array:
        """Normalized latents (B, C, F, H, W) → pixels (B, 8(F-1)+1, 32H, 32W, 3) in about [-1, 1].

        timestep: how noisy the latents are, in [0, 1]; only a VAE with timestep conditioning reads it.
        """
        z = latents.astype(mx.float32).transpose(0, 2, 3, 4, 1)
        z = z * self.per_channel_statistics[STD] + self.per_channel_statistics[MEAN]
        timesteps = mx.full((len(z),), timestep) if self.config.timestep_conditioning else None
        return self.decoder(z.astype(self.decoder.conv_in.conv.weight.dtype), timesteps)


def load_vae(file: Checkpoint, dtype: mx.Dtype) -> VAE:
    """The VAE of a checkpoint, without its encoder. Raises CheckpointError."""
    source = f"the VAE config of {file.path}"
    config = parse_config(VAEConfig, file.section("vae"), SUPPORTED, source=source)
    if not config.decoder_blocks and not config.blocks:
        raise CheckpointError(f"{source} lists neither decoder_blocks nor blocks")
    model = VAE(config)
    weights = _decoder_weights(file)
    load_weights(model, weights, source=file.path, dtype=dtype, float32=STATISTICS)
    return model


def _decoder_weights(file: Checkpoint) -> Weights:
    """The VAE's tensors less those that decoding does not use: the encoder, and the statistics' other moments."""
    weights = {}
    for name, value in file.vae_weights().items():
        group, _, rest = name.partition(".")
        if group == "encoder" or (group == STATISTICS and rest not in (MEAN, STD)):
            continue
        if name.endswith((".per_channel_scale1", ".per_channel_scale2")):
            # A scale of zero injects no noise.
            if mx.any(value != 0).item():
                raise CheckpointError(f"{file.path} injects noise in its decoder ({name}), which is not supported")
            continue
        weights[name] = value
    return weights
