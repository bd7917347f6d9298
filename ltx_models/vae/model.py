"""The whole VAE, with the parameters of its checkpoint."""

from __future__ import annotations

import copy
import functools
import reprlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ltx_models.checkpoint import Checkpoint, Weights, build, check_weights, load_weights, parse_config
from ltx_models.errors import CheckpointError
from ltx_models.kernels import backend
from ltx_models.memory import DecodePlan
from ltx_models.vae.block_list import check_blocks
from ltx_models.vae.blocks import PADDINGS, ResnetBlock3D
from ltx_models.vae.decoder import Decoder
from ltx_models.vae.encoder import LOG_VARIANCES, Encoder
from ltx_models.vae.noise import InjectedNoise
from ltx_models.vae.tiling import decode_frames

__all__ = ["VAE", "VAEConfig", "VAEEncoder", "check_vae", "load_vae", "load_vae_encoder", "to_floats", "to_uint8"]

STATISTICS = "per_channel_statistics"
MEAN, STD = "mean-of-means", "std-of-means"


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """The fields of a checkpoint's `vae` config that the model depends on.

    Blocks are pairs of a name and its parameters, listed from the pixels to the latents; `blocks` is the older layout,
    in which encoder and decoder share one list.
    """

    latent_channels: int
    patch_size: int = 4
    blocks: Sequence[tuple[str, Any]] = ()
    encoder_blocks: Sequence[tuple[str, Any]] = ()
    decoder_blocks: Sequence[tuple[str, Any]] = ()
    encoder_base_channels: int = 128
    decoder_base_channels: int = 128
    latent_log_var: str = "uniform"
    causal_decoder: bool = False
    timestep_conditioning: bool = False
    spatial_padding_mode: str = "zeros"


SUPPORTED: dict[str, Any] = {
    "dims": 3,
    "in_channels": 3,
    "out_channels": 3,
    "norm_layer": "pixel_norm",
    "scaling_factor": 1.0,
    "use_quant_conv": False,
}


class VAE(nn.Module):
    """The decoder of normalized latents: each channel has mean 0 and deviation 1 outside, and its own inside."""

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
            padding=config.spatial_padding_mode,
        )
        self._compiled_picture: Callable[..., mx.array] | None = None

    def decode(self, latents: mx.array, timestep: float, seed: int = 0) -> mx.array:
        """Decode normalized latents (B, C, F, H, W) to pixels (B, 8(F-1)+1, 32H, 32W, 3) in about [-1, 1].

        Args:
            latents: The latents.
            timestep: How noisy they are, in [0, 1]; only a VAE with timestep conditioning reads it.
            seed: The seed of the noise that a decoder of the 0.9.1 layout injects.
        """
        z, timesteps = self._prepare(latents, timestep)
        return self.decoder(z, timesteps, InjectedNoise(seed, z.shape[2], z.shape[3]))

    def decode_chunks(
        self,
        latents: mx.array,
        timestep: float,
        plans: Iterable[DecodePlan],
        convert: Callable[[mx.array], mx.array],
        seed: int = 0,
    ) -> Iterator[np.ndarray]:
        """Decode one video, (1, C, F, H, W), a few frames (n, 32H, 32W, 3) at a time; see `decode_frames`.

        Args:
            latents: The normalized latents.
            timestep: As in `decode`.
            plans: As in `decode_frames`.
            convert: As in `decode_frames`.
            seed: As in `decode`.

        Raises:
            OutOfMemory: The last plan ran out of memory too.
        """
        z, timesteps = self._prepare(latents, timestep)
        noise = InjectedNoise(seed, z.shape[2], z.shape[3])
        return decode_frames(self.decoder, z, timesteps, plans, convert, noise)

    def picture(self, latents: mx.array, timestep: float, seed: int = 0) -> np.ndarray:
        """Decode one latent frame (1, C, 1, H, W) to a picture, uint8 (32H, 32W, 3).

        The decode is compiled once for each size: it is many small pieces of work, which a GPU would wait for one by
        one.
        """
        z, timesteps = self._prepare(latents, timestep)
        if self._compiled_picture is None:
            self._compiled_picture = _compiled_decode(weakref.ref(self.decoder))
        injects = any(isinstance(block, ResnetBlock3D) and block.inject_noise for block in self.decoder.modules())
        if injects or backend() is None:
            pixels = self.decoder(z, timesteps, InjectedNoise(seed, z.shape[2], z.shape[3]), to_uint8)
        else:
            pixels = self._compiled_picture(self.decoder.parameters(), z, timesteps)
        return np.array(pixels[0, 0])

    def _prepare(self, latents: mx.array, timestep: float) -> tuple[mx.array, mx.array | None]:
        z = latents.astype(mx.float32).transpose(0, 2, 3, 4, 1)
        z = z * self.per_channel_statistics[STD] + self.per_channel_statistics[MEAN]
        timesteps = mx.full((len(z),), timestep) if self.config.timestep_conditioning else None
        return z.astype(self.decoder.conv_in.conv.weight.dtype), timesteps


def _compiled_decode(decoder: weakref.ref[Decoder]) -> Callable[..., mx.array]:
    """Return a compiled decode whose weights are arguments, so that MLX's cache of functions keeps no weights alive."""

    def decode(parameters: dict[str, Any], z: mx.array, timesteps: mx.array | None) -> mx.array:
        original = decoder()
        assert original is not None
        stand_in = _shallow(original)
        stand_in.update(parameters)
        return stand_in(z, timesteps, None, to_uint8)

    return mx.compile(decode)


def _shallow(value: Any) -> Any:
    """Return a copy of a module with containers of its own and the same arrays."""
    if isinstance(value, dict):
        copied = copy.copy(value)
        for name in copied:
            copied[name] = _shallow(copied[name])
        return copied
    return [_shallow(item) for item in value] if isinstance(value, list) else value


class VAEEncoder(nn.Module):
    """The encoder of normalized latents, which only conditioning needs."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        channels = config.latent_channels
        self.per_channel_statistics = {MEAN: mx.zeros((channels,)), STD: mx.ones((channels,))}
        self.encoder = Encoder(
            config.encoder_blocks or config.blocks,
            latent_channels=channels,
            base_channels=config.encoder_base_channels,
            patch_size=config.patch_size,
            log_variance=config.latent_log_var,
            padding=config.spatial_padding_mode,
        )

    def encode(self, pixels: mx.array) -> mx.array:
        """Encode pixels (B, F, H, W, 3) in [-1, 1] to latents (B, C, (F-1)/8 + 1, H/32, W/32), float32.

        They are normalized, and the mean of the distribution that the encoder gives, not a sample of it.
        """
        z = self.encoder(pixels.astype(self.encoder.conv_in.conv.weight.dtype)).astype(mx.float32)
        z = (z - self.per_channel_statistics[MEAN]) / self.per_channel_statistics[STD]
        return z.transpose(0, 4, 1, 2, 3)


def to_floats(pixels: mx.array) -> mx.array:
    """Convert pixels from [-1, 1] to [0, 1], float32."""
    return mx.clip(pixels.astype(mx.float32) / 2 + 0.5, 0, 1)


def to_uint8(pixels: mx.array) -> mx.array:
    """Convert pixels from [-1, 1] to 0…255."""
    return _to_uint8(backend() is not None)(pixels)


@functools.cache
def _to_uint8(compiled: bool) -> Callable[[mx.array], mx.array]:
    def convert(pixels: mx.array) -> mx.array:
        return mx.round(to_floats(pixels) * 255).astype(mx.uint8)

    return mx.compile(convert) if compiled else convert


def load_vae(file: Checkpoint, dtype: mx.Dtype) -> VAE:
    """Return the VAE of a checkpoint, without its encoder. Raise CheckpointError."""
    model = _build_decoder(file)
    load_weights(model, _weights(file, "decoder"), source=file.path, dtype=dtype, float32=STATISTICS)
    return model


def load_vae_encoder(file: Checkpoint, dtype: mx.Dtype) -> VAEEncoder:
    """Return the VAE's encoder alone. Raise CheckpointError, also for a checkpoint without one."""
    model, weights = _build_encoder(file), _weights(file, "encoder")
    if not _has_encoder(weights):
        raise CheckpointError(
            f"{file.path} has no VAE encoder, which pictures and clips need; the official single files have one"
        )
    load_weights(model, weights, source=file.path, dtype=dtype, float32=STATISTICS)
    return model


def check_vae(file: Checkpoint) -> None:
    """Raise CheckpointError unless a checkpoint has the VAE that its config describes; the encoder may be missing.

    Only shapes are compared: no weight is read.
    """
    check_weights(_build_decoder(file), _weights(file, "decoder"), file.path)
    weights = _weights(file, "encoder")
    if _has_encoder(weights):
        check_weights(_build_encoder(file), weights, file.path)


def _build_decoder(file: Checkpoint) -> VAE:
    config = _config(file)
    if not config.decoder_blocks and not config.blocks:
        raise CheckpointError(f"the VAE config of {file.path} lists neither decoder_blocks nor blocks")
    return build(lambda: VAE(config), f"the VAE config of {file.path}")


def _build_encoder(file: Checkpoint) -> VAEEncoder:
    config = _config(file)
    if not config.encoder_blocks and not config.blocks:
        raise CheckpointError(f"the VAE config of {file.path} lists neither encoder_blocks nor blocks")
    return build(lambda: VAEEncoder(config), f"the VAE config of {file.path}")


def _has_encoder(weights: Weights) -> bool:
    return any(name.startswith("encoder.") for name in weights)


def _config(file: Checkpoint) -> VAEConfig:
    source = f"the VAE config of {file.path}"
    config = parse_config(VAEConfig, file.section("vae"), SUPPORTED, source=source)
    for blocks in (config.blocks, config.encoder_blocks, config.decoder_blocks):
        check_blocks(blocks, source)
    for key, known in (("spatial_padding_mode", PADDINGS), ("latent_log_var", (*LOG_VARIANCES, "per_channel"))):
        if getattr(config, key) not in known:
            raise CheckpointError(
                f"{source} has {key} = {reprlib.repr(getattr(config, key))}; {', '.join(known)} are supported"
            )
    return config


def _weights(file: Checkpoint, half: str) -> Weights:
    """Return the tensors of the encoder or the decoder, and the two statistics that are used."""
    other = {"encoder": "decoder", "decoder": "encoder"}[half]
    weights = {}
    for name, value in file.weights("vae").items():
        group, _, rest = name.partition(".")
        if group != other and (group != STATISTICS or rest in (MEAN, STD)):
            weights[name] = value
    return weights
