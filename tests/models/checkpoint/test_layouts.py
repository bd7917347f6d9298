"""Test that every layout gives the same model: the same bytes, by the same names, from the same config."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import save_file

from ltx_models.checkpoint import (
    Checkpoint,
    DiffusersFolder,
    SingleFile,
    SplitFolder,
    layouts,
    load_tensors,
    open_checkpoint,
)
from ltx_models.convert import convert
from ltx_models.errors import CheckpointError
from ltx_models.text_encoders.t5 import load_text_encoder
from ltx_models.transformers.ltxv import load_transformer
from ltx_models.vae import load_vae
from tests.models.checkpoint.diffusers_folder import (
    DECODER_095,
    DECODER_9,
    DECODER_10,
    ENCODER_095,
    ENCODER_9,
    ENCODER_10,
    VAE_095,
    VAE_9,
    VAE_10,
    write_diffusers_folder,
)
from tests.models.conftest import TOKENIZER, Golden, read_safetensors, relative_error

TEN_BLOCKS: list[list[Any]] = [
    ["res_x", 2],
    ["compress_all", 1],
    ["res_x_y", 1],
    ["res_x", 1],
    ["compress_all", 1],
    ["res_x_y", 1],
    ["res_x", 1],
    ["compress_all", 1],
    ["res_x", 1],
    ["res_x", 2],
]


def written(golden: Golden, folder: Path) -> DiffusersFolder:
    """Write the golden's checkpoint as a diffusers folder."""
    old = golden.folder.name.endswith("0.9.0")
    tensors, metadata = read_safetensors(golden.checkpoint)
    if not old:
        tensors["vae.decoder.timestep_scale_multiplier"] = np.array(1000, np.float32)
    write_diffusers_folder(
        folder,
        tensors,
        json.loads(metadata["config"])["transformer"],
        VAE_9 if old else VAE_095,
        encoder=ENCODER_9 if old else ENCODER_095,
        decoder=DECODER_9 if old else DECODER_095,
        dynamic_shifting=old,
    )
    checkpoint = open_checkpoint(folder)
    assert isinstance(checkpoint, DiffusersFolder)
    return checkpoint


def same_tensors(ours: Checkpoint, official: Checkpoint) -> None:
    """Check every name, of the transformer and of the whole VAE."""
    pairs = [
        (ours.weights("transformer"), official.weights("transformer")),
        (ours.weights("vae"), official.weights("vae")),
    ]
    for got, expected in pairs:
        assert got.keys() == expected.keys()
        assert all(mx.array_equal(got[name], expected[name]) for name in expected)


def same_output(ours: Checkpoint, golden: Golden) -> None:
    results = []
    for checkpoint in (ours, golden.file):
        transformer, vae = load_transformer(checkpoint, mx.float32), load_vae(checkpoint, mx.float32)
        conditioning = transformer.prepare(golden.mx("t5.output")[:1], None, golden["dit.pixel_coords"], 25.0)
        velocity = transformer(golden.mx("dit.tokens"), mx.array([0.7]), conditioning)
        results.append((velocity, vae.decode(golden.mx("vae.decode.latents"), 0.05)))
    (velocity, pixels), (expected_velocity, expected_pixels) = results
    assert mx.array_equal(velocity, expected_velocity)
    assert mx.array_equal(pixels, expected_pixels)


def test_a_diffusers_folder_is_the_same_model(golden: Golden, tmp_path: Path) -> None:
    checkpoint = written(golden, tmp_path)
    same_tensors_of_golden(checkpoint, golden)
    same_output(checkpoint, golden)
    causal = golden.file.section("transformer").get("causal_temporal_positioning", False)
    assert checkpoint.section("transformer")["causal_temporal_positioning"] is causal


def same_tensors_of_golden(checkpoint: Checkpoint, golden: Golden) -> None:
    expected = golden.file.weights("transformer")
    assert checkpoint.weights("transformer").keys() == expected.keys()
    scale = "decoder.timestep_scale_multiplier"
    assert checkpoint.weights("vae").keys() - {scale} == golden.file.weights("vae").keys() - {scale}


def test_ten_blocks_of_random_weights(golden_090: Golden, tmp_path: Path) -> None:
    """The release 0.9.0 has two residual stacks in a row at its end, which no golden has."""
    tensors, metadata = read_safetensors(golden_090.checkpoint)
    config = json.loads(metadata["config"])
    config["vae"]["blocks"] = TEN_BLOCKS
    tensors = {name: value for name, value in tensors.items() if not name.startswith("vae.")}
    tensors |= random_vae(np.random.default_rng(3))
    single = tmp_path / "ten.safetensors"
    save_file(tensors, single, metadata={"config": json.dumps(config)})
    write_diffusers_folder(
        tmp_path / "folder",
        tensors,
        config["transformer"],
        VAE_10,
        encoder=ENCODER_10,
        decoder=DECODER_10,
        dynamic_shifting=True,
    )
    official, ours = SingleFile(single), open_checkpoint(tmp_path / "folder")
    same_tensors(ours, official)
    latents = mx.random.normal((1, 16, 2, 2, 2), key=mx.random.key(0))
    expected = load_vae(official, mx.float32).decode(latents, 0.05)
    assert mx.array_equal(load_vae(ours, mx.float32).decode(latents, 0.05), expected)
    assert [kind for kind, _ in ours.section("vae")["decoder_blocks"]] == [kind for kind, _ in TEN_BLOCKS]
    assert [kind for kind, _ in ours.section("vae")["encoder_blocks"]] == [kind for kind, _ in TEN_BLOCKS]


def random_vae(random: np.random.Generator) -> dict[str, np.ndarray]:
    """Return a VAE of those ten blocks, 8 channels wide at the pixels, written by its block list."""
    tensors: dict[str, np.ndarray] = {}

    def convolution(name: str, inputs: int, outputs: int, kernel: int = 3) -> None:
        tensors[f"vae.{name}.weight"] = random.standard_normal((outputs, inputs, *[kernel] * 3), np.float32) / 30
        tensors[f"vae.{name}.bias"] = random.standard_normal(outputs, np.float32) / 30

    def resnet(name: str, inputs: int, outputs: int) -> None:
        convolution(f"{name}.conv1.conv", inputs, outputs)
        convolution(f"{name}.conv2.conv", outputs, outputs)
        if inputs != outputs:
            tensors[f"vae.{name}.norm3.norm.weight"] = random.standard_normal(inputs, np.float32)
            tensors[f"vae.{name}.norm3.norm.bias"] = random.standard_normal(inputs, np.float32)
            convolution(f"{name}.conv_shortcut", inputs, outputs, kernel=1)

    for side, blocks, width in (("encoder.down_blocks", TEN_BLOCKS, 8), ("decoder.up_blocks", TEN_BLOCKS[::-1], 32)):
        for index, (kind, layers) in enumerate(blocks):
            name = f"{side}.{index}"
            if kind == "res_x":
                for layer in range(layers):
                    resnet(f"{name}.res_blocks.{layer}", width, width)
            elif kind == "res_x_y":
                wider = width * 2 if side.startswith("encoder") else width // 2
                resnet(name, width, wider)
                width = wider
            else:
                suffix = "conv" if side.startswith("encoder") else "conv.conv"
                convolution(f"{name}.{suffix}", width, width if side.startswith("encoder") else width * 8)
    convolution("encoder.conv_in.conv", 48, 8)
    convolution("encoder.conv_out.conv", 32, 17)
    convolution("decoder.conv_in.conv", 16, 32)
    convolution("decoder.conv_out.conv", 8, 48)
    tensors["vae.per_channel_statistics.mean-of-means"] = random.standard_normal(16, np.float32)
    tensors["vae.per_channel_statistics.std-of-means"] = 1 + random.random(16, np.float32)
    return tensors


def test_sharded_diffusers_folders_are_read(golden_098: Golden, tmp_path: Path) -> None:
    written(golden_098, tmp_path)
    whole = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors, _ = read_safetensors(whole)
    whole.unlink()
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[:20], names[20:]), start=1):
        file = f"diffusion_pytorch_model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, tmp_path / "transformer" / file)
        weight_map |= dict.fromkeys(part, file)
    index = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    same_tensors_of_golden(open_checkpoint(tmp_path), golden_098)


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("vae/config.json", {"encoder_causal": False}, "encoder_causal"),
        ("vae/config.json", {"down_block_types": None}, "not those of diffusers"),
        ("transformer/config.json", {"patch_size": 2}, "patch_size"),
        ("transformer/config.json", {"qk_norm": "layer_norm"}, "qk_norm"),
    ],
)
def test_other_diffusers_models_are_refused(
    golden_098: Golden, tmp_path: Path, file: str, change: dict[str, Any], words: str
) -> None:
    written(golden_098, tmp_path)
    (tmp_path / file).write_text(json.dumps(json.loads((tmp_path / file).read_text()) | change))
    with pytest.raises(CheckpointError, match=words):
        load_transformer(open_checkpoint(tmp_path), mx.float32)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither transformer/config"):
        open_checkpoint(tmp_path)


def test_a_converted_folder_is_the_same_model(golden: Golden, tmp_path: Path) -> None:
    convert(golden.checkpoint, tmp_path / "out", text_encoder=golden.text_encoder, tokenizer=TOKENIZER)
    checkpoint = open_checkpoint(tmp_path / "out")
    assert isinstance(checkpoint, SplitFolder)
    assert checkpoint.config == golden.file.config
    same_tensors(checkpoint, golden.file)
    same_output(checkpoint, golden)
    encoder = load_text_encoder(tmp_path / "out" / "text_encoder", mx.float32)
    output = encoder(golden.mx("t5.input_ids"), golden.mx("t5.attention_mask"))
    assert relative_error(output, golden["t5.output"]) < 3e-6
    assert (tmp_path / "out" / "tokenizer" / "spiece.model").read_bytes() == TOKENIZER.read_bytes()


@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_when_converted_is_quantized_when_loaded(golden_098: Golden, tmp_path: Path, bits: int) -> None:
    convert(golden_098.checkpoint, tmp_path / "out", quantize=bits)
    folder = open_checkpoint(tmp_path / "out")
    assert folder.config["quantization"] == {"bits": bits, "group_size": 64, "mode": "affine"}
    stored, loaded = load_transformer(folder, mx.float32), load_transformer(golden_098.file, mx.float32, quantize=bits)
    outputs = []
    for model in (stored, loaded):
        conditioning = model.prepare(golden_098.mx("t5.output")[:1], None, golden_098["dit.pixel_coords"], 25.0)
        outputs.append(model(golden_098.mx("dit.tokens"), mx.array([0.7]), conditioning))
    assert mx.array_equal(*outputs)
    assert stored.transformer_blocks[0].attn1.to_qkv.bits == bits
    with pytest.raises(CheckpointError, match="quantized already"):
        convert(tmp_path / "out", tmp_path / "again", quantize=bits)
    assert not (tmp_path / "again").exists()


def test_an_fp8_file_stays_fp8_when_converted(golden_098: Golden, tmp_path: Path) -> None:
    convert(golden_098.fp8_checkpoint, tmp_path / "out")
    same_tensors(open_checkpoint(tmp_path / "out"), SingleFile(golden_098.fp8_checkpoint))


def test_a_destination_that_exists_is_left_alone(golden_098: Golden, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="exists already"):
        convert(golden_098.checkpoint, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_parts_with_bare_configs(golden_098: Golden, tmp_path: Path) -> None:
    """The transformer's section is config.json, the decoder has no prefix, the axes are in MLX's order."""
    tensors, metadata = read_safetensors(golden_098.checkpoint)
    config = json.loads(metadata["config"])
    prefix = "model.diffusion_model."
    save_file(
        {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)},
        tmp_path / "transformer.safetensors",
    )
    decoder = {
        name.removeprefix("vae.").removeprefix("decoder."): np.ascontiguousarray(np.moveaxis(value, 1, -1))
        if value.ndim == 5
        else value
        for name, value in tensors.items()
        if name.startswith(("vae.decoder.", "vae.per_channel"))
    }
    save_file(decoder, tmp_path / "vae_decoder.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config["transformer"]))
    (tmp_path / "vae_config.json").write_text(json.dumps(config["vae"]))
    checkpoint = open_checkpoint(tmp_path)
    same_output(checkpoint, golden_098)
    with pytest.raises(CheckpointError, match="no section 'scheduler'"):
        checkpoint.section("scheduler")


def test_two_models_may_share_a_vae(golden_098: Golden, tmp_path: Path) -> None:
    """A file without a VAE names the file with it: its config, its tensors, and its bytes count."""
    whole = golden_098.file
    loaded, metadata = load_tensors(golden_098.checkpoint)
    config = json.loads(metadata["config"])
    alone, owner = tmp_path / "distilled.safetensors", tmp_path / "owner.safetensors"
    owner.write_bytes(golden_098.checkpoint.read_bytes())
    vae = config.pop("vae")
    mx.save_safetensors(
        str(alone),
        {name: value for name, value in loaded.items() if not name.startswith("vae.")},
        {"config": json.dumps(config), "vae_file": "/elsewhere/owner.safetensors"},
    )
    shared = open_checkpoint(alone)
    assert shared.files == [alone, owner]
    assert shared.section("vae") == vae
    assert shared.weights("vae").keys() == whole.weights("vae").keys()
    assert shared.weights("transformer").keys() == whole.weights("transformer").keys()

    owner.unlink()
    with pytest.raises(CheckpointError, match=f"there is no file {owner}"):
        open_checkpoint(alone)
    owner.write_bytes(alone.read_bytes())
    with pytest.raises(CheckpointError, match=f"its VAE is in {owner}, which has none either"):
        open_checkpoint(alone)


def test_a_family_may_have_one_section_alone(
    golden_098: Golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = SingleFile(golden_098.checkpoint)
    alone = dataclasses.replace(both.layout, sections=both.layout.sections[:1])
    monkeypatch.setattr(layouts, "layouts", lambda: iter([alone]))
    first = alone.sections[0].name
    checkpoint = SingleFile(golden_098.checkpoint)
    assert checkpoint.weights(first).keys() == both.weights(first).keys()
    assert checkpoint.left_out
    tensors, metadata = read_safetensors(golden_098.checkpoint)
    save_file(
        {k: v for k, v in tensors.items() if k not in checkpoint.left_out}, tmp_path / "one.safetensors", metadata
    )
    only = SingleFile(tmp_path / "one.safetensors")
    assert only.weights(first).keys() == both.weights(first).keys()
    assert only.left_out == []
