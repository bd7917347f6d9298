"""The sizes of the models, from which `ltx_models.memory` computes. Plain data: importable without MLX."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LTX_2B", "LTX_13B", "POCKET", "Architecture"]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The sizes of a transformer with its text encoder and VAE.

    Attributes:
        layers: Blocks of the transformer.
        heads: Attention heads of the transformer.
        width: Channels of the transformer.
        caption_channels: Channels of the text embeddings that it reads.
        latent_channels: Channels of the latents that it reads.
        text_layers: Blocks of the T5 encoder.
        text_width: Channels of the T5 encoder.
        text_inner: Its heads x head dim.
        text_hidden: Channels of its feed-forward.
        vocabulary: Tokens that it has embeddings of.
        decoder_levels: (channels, residual blocks) of the VAE decoder's levels, from the latents to the pixels; each
            but the last ends in an upsampling of time, rows and columns.
        encoder_channels: Channels of the VAE encoder's first, largest level.
        decoder_parameters: The number of parameters of the VAE's decoder.
        encoder_parameters: The number of parameters of the VAE's encoder.
        itemsize: Bytes of a number in the widest precision in which it is run.
        fused_attention: Whether attention never makes a matrix of all pairs of tokens.
    """

    layers: int
    heads: int
    width: int
    caption_channels: int
    latent_channels: int
    text_layers: int
    text_width: int
    text_inner: int
    text_hidden: int
    vocabulary: int
    decoder_levels: tuple[tuple[int, int], ...]
    encoder_channels: int
    decoder_parameters: int
    encoder_parameters: int
    itemsize: int = 2
    fused_attention: bool = True


def _ltx(*, layers: int, width: int) -> Architecture:
    return Architecture(
        layers=layers,
        heads=32,
        width=width,
        caption_channels=4096,
        latent_channels=128,
        text_layers=24,
        text_width=4096,
        text_inner=4096,
        text_hidden=10240,
        vocabulary=32128,
        decoder_levels=((1024, 5), (512, 5), (256, 5), (128, 5)),
        encoder_channels=128,
        decoder_parameters=553_000_000,
        encoder_parameters=694_000_000,
    )


LTX_2B = _ltx(layers=28, width=2048)
"""LTX-Video 2B with the VAE of 0.9.5 to 0.9.8 and T5 v1.1 XXL; the VAEs of 0.9.0 and 0.9.1 are not larger."""
LTX_13B = _ltx(layers=48, width=4096)

POCKET = Architecture(
    layers=6,
    heads=3,
    width=192,
    caption_channels=128,
    latent_channels=32,
    text_layers=3,
    text_width=128,
    text_inner=128,
    text_hidden=256,
    vocabulary=512,
    decoder_levels=((64, 2), (64, 1), (64, 1), (32, 2)),
    encoder_channels=16,
    decoder_parameters=3_305_968,
    encoder_parameters=869_769,
    itemsize=4,
    fused_attention=False,
)
"""The bundled model as a CPU runs it: in float32, convolutions as matrix products, attention not fused."""
