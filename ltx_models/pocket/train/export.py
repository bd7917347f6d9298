"""Export the trained models to the official single-file layout, with its config in the metadata.

    pocket.safetensors            transformer and VAE
    pocket-distilled.safetensors  the other transformer; its metadata says that the VAE is in pocket.safetensors
    text_encoder/, tokenizer/     of both

All tensors are in bfloat16, except for the latents' statistics. `load` reads them back into the original models.
"""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ltx_models.ltxv.diffusers_names import official_config, rename_transformer, rename_vae
from ltx_models.pocket.train.data import tokenizer_file
from ltx_models.pocket.train.models import Denoiser, build_denoiser, build_vae
from ltx_models.pocket.train.optimization.recipe import Sizes

__all__ = ["DISTILLED", "POCKET", "export", "load"]

POCKET, DISTILLED = "pocket.safetensors", "pocket-distilled.safetensors"
TRANSFORMER_PREFIX, VAE_PREFIX = "model.diffusion_model.", "vae."

TRANSFORMER_CONFIG = {
    "_class_name": "Transformer3DModel",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_type": "default",
    "double_self_attention": False,
    "dropout": 0.0,
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "norm_num_groups": 32,
    "num_embeds_ada_norm": 1000,
    "num_vector_embeds": None,
    "only_cross_attention": False,
    "upcast_attention": False,
    "use_linear_projection": False,
    "qk_norm": "rms_norm",
    "standardization_norm": "rms_norm",
    "positional_embedding_type": "rope",
    "positional_embedding_theta": 10000.0,
    "positional_embedding_max_pos": [20, 2048, 2048],
    "timestep_scale_multiplier": 1000,
    "causal_temporal_positioning": False,
}
VAE_CONFIG = {
    "_class_name": "CausalVideoAutoencoder",
    "dims": 3,
    "in_channels": 3,
    "out_channels": 3,
    "norm_layer": "pixel_norm",
    "use_quant_conv": False,
}
SCHEDULER_CONFIG = {
    "_class_name": "RectifiedFlowScheduler",
    "num_train_timesteps": 1000,
    "sampler": "Uniform",
    "shifting": None,
    "base_resolution": None,
    "target_shift_terminal": None,
}
"""The scheduler's config, which the official code reads in addition to the models' sizes."""
OF_THE_SIZES = {
    "attention_head_dim",
    "caption_channels",
    "cross_attention_dim",
    "in_channels",
    "num_attention_heads",
    "num_layers",
    "out_channels",
}


def export(folder: Path, vae: Any, denoiser: Denoiser, student: Denoiser | None) -> list[Path]:
    """Write the files into `folder`, and return them."""
    config = _config(vae, denoiser)
    transformer = _transformer_tensors(denoiser)
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / POCKET]
    save_file(transformer | _vae_tensors(vae, config["vae"]), files[0], _metadata(config))
    if student is not None:
        files.append(folder / DISTILLED)
        alone = {name: section for name, section in config.items() if name != "vae"}
        save_file(_transformer_tensors(student), files[1], _metadata(alone) | {"vae_file": POCKET})
    text_encoder = copy.deepcopy(denoiser.text_encoder).to(torch.bfloat16)
    text_encoder.save_pretrained(folder / "text_encoder")
    (folder / "tokenizer").mkdir(exist_ok=True)
    if not (folder / "tokenizer" / "spiece.model").exists():
        shutil.copyfile(tokenizer_file(), folder / "tokenizer" / "spiece.model")
    files += [*sorted((folder / "text_encoder").iterdir()), folder / "tokenizer" / "spiece.model"]
    for file in files:
        file.chmod(0o644)  # some writers leave them to their owner alone
    return files


def load(folder: Path, sizes: Sizes, name: str = POCKET) -> tuple[Any, Denoiser]:
    """Return the VAE and the denoiser of exported files, in float32; `name` is POCKET or DISTILLED.

    Raises:
        RuntimeError: The files are of other sizes.
    """
    vae, denoiser = build_vae(sizes), build_denoiser(sizes)
    tensors = {key: value.float() for key, value in (load_file(folder / POCKET) | load_file(folder / name)).items()}
    with safe_open(folder / POCKET, "pt") as file:
        section = json.loads(file.metadata()["config"])["vae"]
    places = rename_vae({key: key for key in vae.state_dict()}, section)
    vae.load_state_dict({theirs: tensors[f"{VAE_PREFIX}{official}"] for official, theirs in places.items()})
    places = rename_transformer({key: key for key in denoiser.transformer.state_dict()})
    denoiser.transformer.load_state_dict(
        {theirs: tensors[f"{TRANSFORMER_PREFIX}{official}"] for official, theirs in places.items()}
    )
    text = {key: value.float() for key, value in load_file(folder / "text_encoder" / "model.safetensors").items()}
    denoiser.text_encoder.load_state_dict({"encoder.embed_tokens.weight": text["shared.weight"]} | text)
    return vae.eval().requires_grad_(False), denoiser.eval().requires_grad_(False)


def _config(vae: Any, denoiser: Denoiser) -> dict[str, Any]:
    transformer = dict(denoiser.transformer.config)
    derived = official_config(transformer=transformer, vae=vae.config, scheduler=None, source="the trained models")
    return {
        "transformer": TRANSFORMER_CONFIG | {name: transformer[name] for name in sorted(OF_THE_SIZES)},
        "vae": VAE_CONFIG | derived["vae"],
        "scheduler": SCHEDULER_CONFIG,
    }


def _metadata(config: dict[str, Any]) -> dict[str, str]:
    return {"format": "pt", "config": json.dumps(config)}


def _transformer_tensors(denoiser: Denoiser) -> dict[str, torch.Tensor]:
    named = rename_transformer(denoiser.transformer.state_dict())
    return {f"{TRANSFORMER_PREFIX}{name}": _published(value) for name, value in named.items()}


def _vae_tensors(vae: Any, config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return tensors in bfloat16, except for the statistics, by which every latent is scaled."""
    named = rename_vae(vae.state_dict(), config)
    return {
        f"{VAE_PREFIX}{name}": value.float().cpu() if name.startswith("per_channel") else _published(value)
        for name, value in named.items()
    }


def _published(value: torch.Tensor) -> torch.Tensor:
    return value.detach().to(torch.bfloat16).contiguous().cpu()
