"""Write a diffusers folder from an official single file: names by a table of fixed indices, configs by hand.

The table is that of the two released layouts; the reader derives it from the kinds of blocks instead.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

ENCODER_10 = (
    "down_blocks.0",
    "down_blocks.0.downsamplers.0",
    "down_blocks.0.conv_out",
    "down_blocks.1",
    "down_blocks.1.downsamplers.0",
    "down_blocks.1.conv_out",
    "down_blocks.2",
    "down_blocks.2.downsamplers.0",
    "down_blocks.3",
    "mid_block",
)
DECODER_10 = (
    "mid_block",
    "up_blocks.0",
    "up_blocks.1.upsamplers.0",
    "up_blocks.1",
    "up_blocks.2.conv_in",
    "up_blocks.2.upsamplers.0",
    "up_blocks.2",
    "up_blocks.3.conv_in",
    "up_blocks.3.upsamplers.0",
    "up_blocks.3",
)
ENCODER_9 = (*ENCODER_10[:8], "mid_block")
DECODER_9 = (
    "mid_block",
    "up_blocks.0.upsamplers.0",
    "up_blocks.0",
    "up_blocks.1.conv_in",
    "up_blocks.1.upsamplers.0",
    "up_blocks.1",
    "up_blocks.2.conv_in",
    "up_blocks.2.upsamplers.0",
    "up_blocks.2",
)
ENCODER_095 = tuple(
    "mid_block" if index == 8 else f"down_blocks.{index // 2}" + (".downsamplers.0" if index % 2 else "")
    for index in range(9)
)
DECODER_095 = (
    "mid_block",
    "up_blocks.0.upsamplers.0",
    "up_blocks.0",
    "up_blocks.1.upsamplers.0",
    "up_blocks.1",
    "up_blocks.2.upsamplers.0",
    "up_blocks.2",
)

OLD_VAE = {
    "_class_name": "AutoencoderKLLTXVideo",
    "in_channels": 3,
    "out_channels": 3,
    "patch_size": 4,
    "patch_size_t": 1,
    "decoder_causal": False,
    "encoder_causal": True,
    "scaling_factor": 1.0,
    "timestep_conditioning": False,
}
VAE_10 = OLD_VAE | {
    "block_out_channels": [8, 16, 32, 32],
    "decoder_block_out_channels": [8, 16, 32, 32],
    "layers_per_block": [2, 1, 1, 1, 2],
    "decoder_layers_per_block": [2, 1, 1, 1, 2],
    "spatio_temporal_scaling": [True, True, True, False],
    "decoder_spatio_temporal_scaling": [True, True, True, False],
    "down_block_types": ["LTXVideoDownBlock3D"] * 4,
    "latent_channels": 16,
}
VAE_9 = VAE_10 | {
    "block_out_channels": [8, 16, 32],
    "decoder_block_out_channels": [8, 16, 32],
    "layers_per_block": [1, 1, 1, 1],
    "decoder_layers_per_block": [1, 1, 1, 1],
    "spatio_temporal_scaling": [True, True, True],
    "decoder_spatio_temporal_scaling": [True, True, True],
    "down_block_types": ["LTXVideoDownBlock3D"] * 3,
}
VAE_095 = OLD_VAE | {
    "block_out_channels": [4, 8, 16, 32, 64],
    "decoder_block_out_channels": [8, 16, 32],
    "layers_per_block": [1, 1, 1, 1, 1],
    "decoder_layers_per_block": [1, 1, 1, 2],
    "spatio_temporal_scaling": [True, True, True, True],
    "decoder_spatio_temporal_scaling": [True, True, True],
    "down_block_types": ["LTXVideo095DownBlock3D"] * 4,
    "downsample_type": ["spatial", "temporal", "spatiotemporal", "spatiotemporal"],
    "upsample_residual": [True, True, True],
    "upsample_factor": [2, 2, 2],
    "timestep_conditioning": True,
    "latent_channels": 16,
}


def write_diffusers_folder(
    folder: Path,
    tensors: Mapping[str, np.ndarray],
    transformer: Mapping[str, Any],
    vae: Mapping[str, Any],
    *,
    encoder: tuple[str, ...],
    decoder: tuple[str, ...],
    dynamic_shifting: bool,
) -> Path:
    """`tensors` and `transformer` are a single file's; `vae` is a config of diffusers."""
    section = {key: value for key, value in transformer.items() if "positional" not in key and "standard" not in key}
    section |= {"qk_norm": "rms_norm_across_heads", "patch_size": 1, "patch_size_t": 1}
    parts: dict[str, dict[str, np.ndarray]] = {"transformer": {}, "vae": {}}
    for name, value in tensors.items():
        if name.startswith("model.diffusion_model."):
            parts["transformer"][transformer_name(name.removeprefix("model.diffusion_model."))] = value
        else:
            parts["vae"][vae_name(name.removeprefix("vae."), encoder, decoder)] = value
    configs = {
        "transformer/config.json": section,
        "vae/config.json": vae,
        "scheduler/scheduler_config.json": {"use_dynamic_shifting": dynamic_shifting, "shift_terminal": 0.1},
    }
    for name, config in configs.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(config))
    for part, renamed in parts.items():
        save_file(renamed, folder / part / "diffusion_pytorch_model.safetensors")
    return folder


def transformer_name(name: str) -> str:
    name = name.replace("q_norm", "norm_q").replace("k_norm", "norm_k")
    return name.replace("patchify_proj", "proj_in").replace("adaln_single", "time_embed")


def vae_name(name: str, encoder: tuple[str, ...], decoder: tuple[str, ...]) -> str:
    fixed = {
        "per_channel_statistics.mean-of-means": "latents_mean",
        "per_channel_statistics.std-of-means": "latents_std",
    }
    if name in fixed:
        return fixed[name]
    name = name.replace("last_time_embedder", "time_embedder").replace("last_scale_shift", "scale_shift")
    name = re.sub(r"encoder\.down_blocks\.(\d+)", lambda match: f"encoder.{encoder[int(match[1])]}", name)
    name = re.sub(r"decoder\.up_blocks\.(\d+)", lambda match: f"decoder.{decoder[int(match[1])]}", name)
    return name.replace("res_blocks", "resnets").replace("norm3.norm", "norm3").replace("shortcut.", "shortcut.conv.")
