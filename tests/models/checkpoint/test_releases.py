"""Test configs of releases that no golden covers, at small widths with random weights: they load and render."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from ltx_models.checkpoint import SingleFile
from ltx_models.errors import CheckpointError
from ltx_models.events import Finished, RenderResult
from ltx_models.pipeline.text_to_video import LTXPipeline
from ltx_models.request import ConditioningItem, GenerationRequest
from ltx_models.transformers.ltxv import Transformer, TransformerConfig
from ltx_models.vae import VAE, VAEConfig, VAEEncoder, load_vae
from tests.models.conftest import TOKENIZER, Golden
from tests.models.sampling.test_guidance import STAGES

CHANNELS = 16
TRANSFORMER: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "num_layers": 4,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "caption_channels": 32,
    "cross_attention_dim": 24,
    "qk_norm": "rms_norm",
}
VAE_BASE: dict[str, Any] = {"latent_channels": CHANNELS, "patch_size": 4, "norm_layer": "pixel_norm"}
OLD_ENCODER = [
    *[["res_x", 1], ["compress_all", 1], ["res_x_y", 1], ["res_x", 1], ["compress_all", 1], ["res_x_y", 1]],
    *[["res_x", 1], ["compress_all", 1], ["res_x", 1], ["res_x", 1]],
]
VAE_091 = {
    **VAE_BASE,
    "encoder_base_channels": 4,
    "decoder_base_channels": 4,
    "timestep_conditioning": True,
    "encoder_blocks": OLD_ENCODER,
    "decoder_blocks": [
        ["res_x", {"num_layers": 2, "inject_noise": True}],
        ["compress_all", {"residual": True, "multiplier": 2}],
        ["res_x", {"num_layers": 1, "inject_noise": True}],
        ["compress_all", {"residual": True, "multiplier": 2}],
        ["res_x", {"num_layers": 1, "inject_noise": True}],
        ["compress_all", {"residual": True, "multiplier": 2}],
        ["res_x", {"num_layers": 1, "inject_noise": False}],
    ],
}
VAE_13B = {
    **VAE_BASE,
    "encoder_base_channels": 4,
    "decoder_base_channels": 4,
    "timestep_conditioning": True,
    "spatial_padding_mode": "replicate",
    "causal_decoder": True,
    "encoder_blocks": [
        ["res_x", {"num_layers": 1}],
        ["compress_space_res", {"multiplier": 2}],
        ["res_x", {"num_layers": 1}],
        ["compress_time_res", {"multiplier": 2}],
        ["compress_all_res", {"multiplier": 2}],
        ["compress_all_res", {"multiplier": 2}],
        ["res_x", {"num_layers": 1}],
    ],
    "decoder_blocks": [
        block if block[0] != "res_x" else ["res_x", {"num_layers": 1}] for block in VAE_091["decoder_blocks"]
    ],
}
SD3 = {"shifting": "SD3", "target_shift_terminal": 0.1}
RELEASES = {
    "0.9.1": {"transformer": TRANSFORMER, "vae": VAE_091, "scheduler": SD3},
    "13B": {
        "transformer": {**TRANSFORMER, "num_layers": 48, "causal_temporal_positioning": True},
        "vae": VAE_13B,
        "scheduler": SD3,
    },
}


def fields(kind: Any, section: dict[str, Any]) -> dict[str, Any]:
    return {field.name: section[field.name] for field in dataclasses.fields(kind) if field.name in section}


def tensors(model: nn.Module, prefix: str) -> dict[str, mx.array]:
    """Return random tensors of the model's names, with convolutions in PyTorch's order."""
    flat: Any = tree_flatten(model.parameters())  # type: ignore[no-untyped-call]
    random = np.random.default_rng(len(prefix))
    made = {}
    for name, value in flat:
        shape = value.shape if value.ndim != 5 else (value.shape[0], value.shape[4], *value.shape[1:4])
        offset = 1.0 if name.endswith(("norm.weight", "std-of-means")) else 0.0
        scale = 1 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 and "per_channel_scale" not in name else 0.1
        made[prefix + name] = mx.array(offset + scale * random.normal(size=shape).astype(np.float32))
    made.pop(prefix + "decoder.timestep_scale_multiplier", None)
    if prefix + "decoder.last_scale_shift_table" in made:
        made[prefix + "decoder.timestep_scale_multiplier"] = mx.array(1000.0)
    return made


@pytest.fixture(params=RELEASES)
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write(tmp_path / f"{request.param}.safetensors", RELEASES[request.param])


def write(path: Path, config: dict[str, Any]) -> Path:
    vae = VAEConfig(**fields(VAEConfig, config["vae"]))
    weights = {
        **tensors(
            Transformer(TransformerConfig(**fields(TransformerConfig, config["transformer"]))), "model.diffusion_model."
        ),
        **tensors(VAE(vae), "vae."),
        **tensors(VAEEncoder(vae), "vae."),
    }
    mx.save_safetensors(str(path), weights, {"config": json.dumps(config)})
    return path


def render(checkpoint: Path, golden: Golden, **values: Any) -> RenderResult:
    pipe = LTXPipeline.from_files(
        checkpoint=checkpoint, text_encoder=golden.text_encoder, tokenizer=TOKENIZER, dtype=mx.float32
    )
    defaults = {"width": 64, "height": 32, "num_frames": 17, "num_steps": 3, "seed": 1}
    request = GenerationRequest(prompt="a cat", **{**defaults, **values})
    latents = [pipe.encode(np.full((1, 32, 64, 3), 0.5, np.float32))] * len(request.conditioning)
    *_, last = pipe.stream(request, embeddings=golden.embeddings(), conditioning_latents=latents)
    assert isinstance(last, Finished)
    return last.result


def test_it_renders_with_all_guidance_and_a_picture(checkpoint: Path, golden_090: Golden) -> None:
    blocks: Any = {"stg_blocks": (1, 3)} if "0.9.1" in checkpoint.name else {}
    result = render(
        checkpoint,
        golden_090,
        **{**STAGES, **blocks},
        cfg_star=True,
        num_steps=6,
        skip_last_steps=1,
        conditioning=(ConditioningItem(kind="image", source="given as latents"),),
    )
    assert result.frames.shape == (17, 32, 64, 3)
    assert np.isfinite(result.latents).all()


@pytest.fixture
def checkpoint_091(tmp_path: Path) -> Path:
    return write(tmp_path / "0.9.1.safetensors", RELEASES["0.9.1"])


def test_injected_noise_is_the_seeds_own(checkpoint_091: Path) -> None:
    vae = load_vae(SingleFile(checkpoint_091), mx.float32)
    latents = mx.random.normal((1, CHANNELS, 2, 1, 2), key=mx.random.key(0))
    first, again, other = (vae.decode(latents, 0.05, seed) for seed in (1, 1, 2))
    assert mx.array_equal(first, again)
    assert not mx.allclose(first, other, atol=1e-3)
    assert not mx.allclose(first, vae.decoder(latents.transpose(0, 2, 3, 4, 1), mx.array([0.05])), atol=1e-3)


def test_the_same_seed_gives_the_same_frames(checkpoint_091: Path, golden_090: Golden) -> None:
    first, again = (render(checkpoint_091, golden_090, guidance_scale=1.0) for _ in range(2))
    assert first.frames.tobytes() == again.frames.tobytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"spatial_padding_mode": "circular"}, "zeros, replicate, reflect are supported"),
        ({"latent_log_var": "learned"}, "latent_log_var = 'learned'"),
        ({"norm_layer": "group_norm"}, "only 'pixel_norm' is supported"),
    ],
)
def test_another_architecture_is_refused(tmp_path: Path, change: dict[str, str], words: str) -> None:
    config = {**RELEASES["0.9.1"], "vae": {**VAE_091, **change}}
    path = tmp_path / "other.safetensors"
    names = ("model.diffusion_model.patchify_proj.weight", "vae.decoder.conv_in.conv.weight")  # of a whole checkpoint
    mx.save_safetensors(str(path), {name: mx.zeros((1,)) for name in names}, {"config": json.dumps(config)})
    with pytest.raises(CheckpointError, match=words):
        load_vae(SingleFile(path), mx.float32)
