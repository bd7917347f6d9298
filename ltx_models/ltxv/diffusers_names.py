"""Translate diffusers' names and configs of LTX-Video to the official ones.

The official VAE is a list of blocks, and its names count them. diffusers combines a residual stack, the resampler next
to it and a change of width into one block, so a block's place depends on the kinds of those before it.

Importable without MLX: training writes its checkpoints by the same tables by which they are read.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from ltx_models.errors import CheckpointError

__all__ = ["name_decoder", "official_config", "rename_transformer", "rename_vae", "vae_prefixes"]

TRANSFORMER_NAMES = {
    r"^proj_in\.": "patchify_proj.",
    r"^time_embed\.": "adaln_single.",
    r"\.norm_q\.": ".q_norm.",
    r"\.norm_k\.": ".k_norm.",
}
RESIDUAL_NAMES = {
    r"(^|\.)resnets\.": r"\1res_blocks.",
    r"(^|\.)norm3\.": r"\1norm3.norm.",
    r"(^|\.)conv_shortcut\.conv\.": r"\1conv_shortcut.",
}
VAE_NAMES = {
    r"^latents_mean$": "per_channel_statistics.mean-of-means",
    r"^latents_std$": "per_channel_statistics.std-of-means",
    r"^decoder\.time_embedder\.": "decoder.last_time_embedder.",
    r"^decoder\.scale_shift_table$": "decoder.last_scale_shift_table",
}
DOWNSAMPLERS = {
    "conv": "compress_all",
    "spatial": "compress_space_res",
    "temporal": "compress_time_res",
    "spatiotemporal": "compress_all_res",
}
SINCE_095 = "LTXVideo095DownBlock3D"
"""The down block of 0.9.5 and later: the first whose transformer shifts the time of latent frames causally."""

Block = tuple[str, dict[str, Any]]
Tensor = TypeVar("Tensor")


def rename_transformer(weights: Mapping[str, Tensor], _config: Mapping[str, Any] | None = None) -> dict[str, Tensor]:
    """Return the transformer's tensors by their official names."""
    return {_substitute(name, TRANSFORMER_NAMES): value for name, value in weights.items()}


def rename_vae(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the VAE's tensors by their official names; `config` is the official `vae` section."""
    prefixes = {theirs: official for official, theirs in vae_prefixes(config).items()}
    return {_vae_name(name, prefixes): value for name, value in weights.items()}


def vae_prefixes(config: Mapping[str, Any]) -> dict[str, str]:
    """Return diffusers' name of each official block: "decoder.up_blocks.1" → "decoder.up_blocks.0.upsamplers.0"."""
    encoder = _encoder_places([name for name, _ in config["encoder_blocks"]])
    decoder = _decoder_places([name for name, _ in reversed(config["decoder_blocks"])])
    return {f"encoder.down_blocks.{index}": f"encoder.{place}" for index, place in enumerate(encoder)} | {
        f"decoder.up_blocks.{index}": f"decoder.{place}" for index, place in enumerate(decoder)
    }


def _encoder_places(kinds: Sequence[str]) -> list[str]:
    """Return the encoder blocks' places: each residual stack begins a new block; the last one is the middle."""
    places, block = [], -1
    for index, kind in enumerate(kinds):
        if kind == "res_x":
            block += 1
            places.append("mid_block" if index == len(kinds) - 1 else f"down_blocks.{block}")
        else:
            places.append(f"down_blocks.{block}.{'conv_out' if kind == 'res_x_y' else 'downsamplers.0'}")
    return places


def _decoder_places(kinds: Sequence[str]) -> list[str]:
    """Return the decoder blocks' places: the first residual stack is the middle; every other one closes a block."""
    places, block = [], 0
    for index, kind in enumerate(kinds):
        if kind != "res_x":
            places.append(f"up_blocks.{block}.{'conv_in' if kind == 'res_x_y' else 'upsamplers.0'}")
        elif index == 0:
            places.append("mid_block")
        else:
            places.append(f"up_blocks.{block}")
            block += 1
    return places


def _vae_name(name: str, prefixes: Mapping[str, str]) -> str:
    for theirs in sorted(prefixes, key=len, reverse=True):  # the longest: an upsampler is inside its block
        if name.startswith(f"{theirs}."):
            return f"{prefixes[theirs]}.{_substitute(name.removeprefix(f'{theirs}.'), RESIDUAL_NAMES)}"
    return _substitute(name, VAE_NAMES)


def _substitute(name: str, patterns: Mapping[str, str]) -> str:
    for pattern, replacement in patterns.items():
        name = re.sub(pattern, replacement, name)
    return name


def official_config(
    *, transformer: Mapping[str, Any], vae: Mapping[str, Any], scheduler: Mapping[str, Any] | None, source: str
) -> dict[str, Any]:
    """Return the official config that corresponds to diffusers' configs.

    diffusers does not store causal temporal positions: its pipelines know. They came with 0.9.5, as did the VAE's new
    down blocks, which its config does name.

    Args:
        transformer: diffusers' config of the transformer.
        vae: Its config of the VAE.
        scheduler: Its config of the scheduler, or None.
        source: The folder that errors name.

    Raises:
        CheckpointError: The configs are not those of LTX-Video.
    """
    try:
        _expect(f"the transformer config of {source}", transformer, {"patch_size": 1, "patch_size_t": 1})
        _expect(f"the VAE config of {source}", vae, {"patch_size_t": 1, "encoder_causal": True})
        since_095 = SINCE_095 in vae["down_block_types"]
        return {
            "transformer": _transformer_section(transformer) | {"causal_temporal_positioning": since_095},
            "vae": _vae_section(vae),
            "scheduler": _scheduler_section(scheduler or {"use_dynamic_shifting": not since_095}),
        }
    except (KeyError, IndexError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise CheckpointError(
            f"the configs of {source} are not those of diffusers' LTX-Video: {reprlib.repr(error)}"
        ) from error


def _transformer_section(config: Mapping[str, Any]) -> dict[str, Any]:
    section = dict(config)
    if section.get("qk_norm", "rms_norm_across_heads") == "rms_norm_across_heads":
        section["qk_norm"] = "rms_norm"
    return section


def _vae_section(config: Mapping[str, Any]) -> dict[str, Any]:
    channels = config["decoder_block_out_channels"][0]
    factors = config.get("upsample_factor") or [1] * len(config["decoder_block_out_channels"])
    return {
        "latent_channels": config["latent_channels"],
        "patch_size": config["patch_size"],
        "scaling_factor": config.get("scaling_factor", 1.0),
        "causal_decoder": config.get("decoder_causal", False),
        "timestep_conditioning": config.get("timestep_conditioning", False),
        "latent_log_var": "uniform",
        "encoder_base_channels": config["block_out_channels"][0],
        "decoder_base_channels": channels // factors[0],
        "encoder_blocks": _encoder_blocks(config),
        "decoder_blocks": _decoder_blocks(config),
    }


def _encoder_blocks(config: Mapping[str, Any]) -> list[Block]:
    widths, layers = config["block_out_channels"], config["layers_per_block"]
    types, scaling = config["down_block_types"], config["spatio_temporal_scaling"]
    if SINCE_095 not in types:
        widths = [*widths, widths[-1]]
    kinds = config.get("downsample_type") or ["conv"] * len(types)
    blocks: list[Block] = []
    for index in range(len(widths) - 1):
        blocks.append(("res_x", {"num_layers": layers[index]}))
        wider = widths[index + 1] // widths[index]
        kind = DOWNSAMPLERS[kinds[index] if types[index] == SINCE_095 else "conv"]
        if scaling[index]:
            blocks.append((kind, {"multiplier": wider} if kind.endswith("_res") else {}))
        if wider != 1 and not kind.endswith("_res"):
            blocks.append(("res_x_y", {"multiplier": wider}))
    return [*blocks, ("res_x", {"num_layers": layers[-1]})]


def _decoder_blocks(config: Mapping[str, Any]) -> list[Block]:
    """Return the blocks from the pixels to the latents, as the official config lists them."""
    widths = config["decoder_block_out_channels"]
    layers, scaling = config["decoder_layers_per_block"], config["decoder_spatio_temporal_scaling"]
    factors = config.get("upsample_factor") or [1] * len(widths)
    residual = config.get("upsample_residual") or [False] * len(widths)
    noise = config.get("decoder_inject_noise") or [False] * len(layers)
    blocks: list[Block] = []
    for index, width in enumerate(widths):
        blocks.append(("res_x", {"num_layers": layers[index], "inject_noise": noise[index]}))
        if scaling[index]:
            blocks.append(("compress_all", {"residual": residual[index], "multiplier": factors[index]}))
        last = index == len(widths) - 1
        before = widths[-1] if last else widths[index + 1] // factors[index + 1]
        before, after = before // factors[index], width // factors[index]
        if before != after:
            blocks.append(("res_x_y", {"multiplier": before // after, "inject_noise": noise[index]}))
    return [*blocks, ("res_x", {"num_layers": layers[-1], "inject_noise": noise[-1]})]


def _scheduler_section(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the official scheduler section.

    Dynamic shifting is SD3's; the pipelines of versions without it use the linear-quadratic schedule.
    """
    if config.get("use_dynamic_shifting"):
        return {"sampler": "Uniform", "shifting": "SD3", "target_shift_terminal": config.get("shift_terminal", 0.1)}
    return {"sampler": "LinearQuadratic", "shifting": None, "target_shift_terminal": None}


def _expect(what: str, config: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if config.get(key, value) != value:
            raise CheckpointError(f"{what} has {key} = {reprlib.repr(config[key])}; only {value!r} is supported")


def name_decoder(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the VAE's tensors by their official names, where a file of the decoder alone may leave out its prefix."""
    if any(name.startswith("decoder.") for name in weights):
        return dict(weights)
    statistics = "per_channel_statistics."
    return {name if name.startswith(statistics) else f"decoder.{name}": value for name, value in weights.items()}
