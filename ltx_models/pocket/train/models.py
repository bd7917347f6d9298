"""Build the three models of diffusers' and transformers' classes."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from diffusers import AutoencoderKLLTXVideo, LTXVideoTransformer3DModel
from transformers import T5Config, T5EncoderModel

from ltx_models.pocket.train.optimization.recipe import Sizes

__all__ = ["PADDING", "Denoiser", "FrameRate", "build_denoiser", "build_vae", "fused"]

FRAME_STRIDE, SIZE_STRIDE = 8, 32
FrameRate: TypeAlias = "float | torch.Tensor"
"""A number, or a tensor (1,)."""
TIMESTEP_SCALE = 1000.0
PADDING = 0


def build_vae(sizes: Sizes) -> Any:
    """Return LTX-Video's autoencoder in the layout of 0.9.5, small: 32x32x8 pixels become one latent."""
    levels = len(sizes.decoder)
    return AutoencoderKLLTXVideo(
        latent_channels=sizes.latent_channels,
        block_out_channels=sizes.encoder,
        down_block_types=("LTXVideo095DownBlock3D",) * 4,
        layers_per_block=sizes.encoder_layers,
        spatio_temporal_scaling=(True,) * 4,
        downsample_type=("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
        decoder_block_out_channels=sizes.decoder,
        decoder_layers_per_block=sizes.decoder_layers,
        decoder_spatio_temporal_scaling=(True,) * levels,
        decoder_inject_noise=(False,) * (levels + 1),
        upsample_residual=(True,) * levels,
        upsample_factor=sizes.decoder_factors,
        timestep_conditioning=False,
        patch_size=4,
        patch_size_t=1,
    )


class Denoiser(torch.nn.Module):
    """The transformer and the text encoder, which are trained as one."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.heads * sizes.head_dim
        self.transformer = LTXVideoTransformer3DModel(
            in_channels=sizes.latent_channels,
            out_channels=sizes.latent_channels,
            num_attention_heads=sizes.heads,
            attention_head_dim=sizes.head_dim,
            cross_attention_dim=width,
            num_layers=sizes.layers,
            caption_channels=sizes.text_width,
        )
        # Under autocast the first block would get bfloat16, the others float32: the compiler would compile them twice.
        self.transformer.proj_in.register_forward_hook(_in_float32)
        self.text_encoder = T5EncoderModel(
            T5Config(
                vocab_size=sizes.vocabulary,
                d_model=sizes.text_width,
                d_kv=sizes.text_width // sizes.text_heads,
                d_ff=sizes.text_hidden,
                num_layers=sizes.text_layers,
                num_heads=sizes.text_heads,
                feed_forward_proj="gated-gelu",
                dropout_rate=0.0,
            )
        )

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Return embeddings (B, N, width of the text encoder) of token ids (B, N), padded with 0."""
        embeddings: torch.Tensor = self.text_encoder(
            input_ids=ids, attention_mask=(ids != PADDING).to(torch.int64)
        ).last_hidden_state
        return embeddings

    def velocity(
        self,
        x: torch.Tensor,
        timestep: torch.Tensor,
        embeddings: torch.Tensor,
        ids: torch.Tensor,
        size: tuple[int, int, int],
        frame_rate: FrameRate,
    ) -> torch.Tensor:
        """Return noise - x0, (B, F·H·W, C).

        Args:
            x: Latents as tokens.
            timestep: (B,) in [0, 1].
            embeddings: The captions' embeddings.
            ids: The captions' ids, for the mask.
            size: Latent frames, rows and columns.
            frame_rate: Frames a second.
        """
        velocity: torch.Tensor = self.transformer(
            hidden_states=x,
            encoder_hidden_states=embeddings,
            timestep=timestep * TIMESTEP_SCALE,
            encoder_attention_mask=(ids != PADDING).to(x.dtype),
            video_coords=_coordinates(size, frame_rate, x.device),
            return_dict=False,
        )[0]
        return velocity

    def forward(
        self,
        x: torch.Tensor,
        timestep: torch.Tensor,
        ids: torch.Tensor,
        size: tuple[int, int, int],
        frame_rate: FrameRate,
    ) -> torch.Tensor:
        """Return the velocity, given captions rather than embeddings."""
        return self.velocity(x, timestep, self.embed(ids), ids, size, frame_rate)


def _in_float32(module: torch.nn.Module, args: object, output: torch.Tensor) -> torch.Tensor:  # noqa: ARG001
    return output.float()


def _coordinates(size: tuple[int, int, int], frame_rate: FrameRate, device: torch.device) -> torch.Tensor:
    """Return the coordinates of latents, (1, 3, N) of seconds, rows and columns; one sample's serve a batch."""
    strides = (FRAME_STRIDE / frame_rate, SIZE_STRIDE, SIZE_STRIDE)
    axes = [
        torch.arange(count, dtype=torch.float32, device=device) * stride
        for count, stride in zip(size, strides, strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)[None]


def build_denoiser(sizes: Sizes) -> Denoiser:
    """Return a new denoiser whose last layer is zero: it begins by predicting zeros, rather than noise."""
    denoiser = Denoiser(sizes)
    torch.nn.init.zeros_(denoiser.transformer.proj_out.weight)
    torch.nn.init.zeros_(denoiser.transformer.proj_out.bias)
    return denoiser


def fused(denoiser: Denoiser) -> Denoiser:
    """Return the same denoiser; on a GPU PyTorch's compiler fuses the operations of its blocks.

    That takes 20 seconds at the first steps of each of two or three ranges of sizes, and makes a step two and a half
    times as fast; all blocks share what is compiled.
    """
    if denoiser.device.type == "cuda":
        denoiser.transformer.compile_repeated_blocks(dynamic=True)
    return denoiser
