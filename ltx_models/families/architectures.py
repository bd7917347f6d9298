"""How large the models are: what `ltx_models.memory` computes with. Plain data: importable without MLX."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LTX_2B", "LTX_13B", "POCKET", "Architecture"]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The sizes of a transformer with the text encoder and the VAE that belong to it.

    layers, heads, width: of the transformer.  caption_channels, latent_channels: what it reads.
    text_layers, text_width, text_inner (heads x head dim), text_hidden, vocabulary: of the T5 encoder.
    decoder_levels: (channels, residual blocks) of the VAE's decoder, from the latents to the pixels; each but the
    last ends in an upsampling of time, rows and columns.  encoder_channels: of the encoder's first, largest level.
    decoder_parameters, encoder_parameters: how many there are.
    itemsize: bytes of a number in the widest precision that it is run in.
    fused_attention: whether attention is never computed as a matrix of all pairs of tokens.
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
"""LTX-Video 2B with the VAE of 0.9.5 to 0.9.8 and T5 v1.1 XXL; those of 0.9.0 and 0.9.1 are smaller or as large."""
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
"""The bundled model, as it runs on a CPU: in float32, its convolutions as matrix products, its attention unfolded."""
