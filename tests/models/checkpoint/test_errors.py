"""Test that every fault of a file is a CheckpointError that names it."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import save_file

from ltx_models.checkpoint import SingleFile, file_hash
from ltx_models.errors import CheckpointError
from ltx_models.pipeline.text_to_video import LTXPipeline
from ltx_models.transformers.ltxv import load_transformer
from ltx_models.vae import load_vae
from tests.models.conftest import DATA, TOKENIZER, Golden, read_safetensors

Tensors = dict[str, np.ndarray]
Config = dict[str, Any]
Write = Callable[..., Path]

QUERY = "model.diffusion_model.transformer_blocks.0.attn1.to_q.weight"


@pytest.fixture
def write(golden_098: Golden, tmp_path: Path) -> Write:
    """Write the 0.9.8 checkpoint again, with its tensors and config changed in place."""

    def write(
        change: Callable[[Tensors], Any] = lambda tensors: None,
        configure: Callable[[Config], Any] = lambda config: None,
    ) -> Path:
        tensors, metadata = read_safetensors(golden_098.checkpoint)
        config = json.loads(metadata["config"])
        change(tensors)
        configure(config)
        path = tmp_path / "changed.safetensors"
        save_file(tensors, path, metadata={"config": json.dumps(config)})
        return path

    return write


def load(path: Path) -> None:
    file = SingleFile(path)
    load_transformer(file, mx.float32)
    load_vae(file, mx.float32)


def test_an_unchanged_copy_loads(write: Write) -> None:
    load(write())


def test_missing_tensors_are_named(write: Write) -> None:
    path = write(lambda tensors: tensors.pop(QUERY))
    with pytest.raises(CheckpointError, match=re.escape("transformer_blocks.0.attn1.to_q.weight")) as error:
        load(path)
    assert "lacks tensor" in str(error.value)
    assert str(path) in str(error.value)


def test_only_the_first_five_are_named(write: Write) -> None:
    def drop_a_block(tensors: Tensors) -> None:
        for name in [name for name in tensors if ".transformer_blocks.1." in name]:
            del tensors[name]

    with pytest.raises(CheckpointError, match=r"… \(\d+ in all\)") as error:
        load(write(drop_a_block))
    assert str(error.value).count("transformer_blocks.1.") == 5


def test_unexpected_tensors_are_named(write: Write) -> None:
    path = write(lambda tensors: tensors.update({"vae.decoder.attention.weight": np.zeros(3, np.float32)}))
    with pytest.raises(CheckpointError, match=r"unexpected tensor decoder\.attention\.weight"):
        load(path)


def test_wrong_shapes_are_named_as_they_lie_in_the_file(write: Write) -> None:
    def change(tensors: Tensors) -> None:
        tensors["vae.decoder.conv_in.conv.weight"] = np.zeros((32, 8, 3, 3, 3), np.float32)

    expected = r"decoder\.conv_in\.conv\.weight \(32, 8, 3, 3, 3\) instead of \(32, 16, 3, 3, 3\)"
    with pytest.raises(CheckpointError, match=expected):
        load(write(change))


def test_the_encoder_and_other_statistics_are_not_read(write: Write) -> None:
    def change(tensors: Tensors) -> None:
        tensors["vae.per_channel_statistics.mean-of-stds"] = np.zeros(16, np.float32)
        for name in [name for name in tensors if name.startswith("vae.encoder.")]:
            del tensors[name]

    load(write(change))


@pytest.mark.parametrize(
    ("section", "values", "words"),
    [
        ("transformer", {"qk_norm": "layer_norm"}, "only 'rms_norm' is supported"),
        ("transformer", {"cross_attention_dim": 32}, "cross_attention_dim"),
        ("vae", {"spatial_padding_mode": "circular"}, "spatial_padding_mode = 'circular'"),
        ("vae", {"decoder_blocks": [["vit_x", {"num_layers": 1}]]}, "the decoder knows res_x, "),
        ("vae", {"decoder_blocks": [["attn_res_x", {"num_layers": 1}]]}, "does not say its attention_head_dim"),
        ("vae", {"decoder_blocks": []}, "neither decoder_blocks nor blocks"),
    ],
)
def test_another_architecture_is_refused(write: Write, section: str, values: Config, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        load(write(configure=lambda config: config[section].update(values)))


def test_a_config_without_a_needed_field_is_refused(write: Write) -> None:
    with pytest.raises(CheckpointError, match="does not say num_layers"):
        load(write(configure=lambda config: config["transformer"].pop("num_layers")))


def test_a_config_without_a_section_is_refused(write: Write) -> None:
    with pytest.raises(CheckpointError, match="no section 'vae'"):
        load(write(configure=lambda config: config.pop("vae")))


def test_no_config(golden_098: Golden, tmp_path: Path) -> None:
    tensors, _ = read_safetensors(golden_098.checkpoint)
    path = tmp_path / "bare.safetensors"
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match="no 'config' in its metadata"):
        load(path)


@pytest.mark.parametrize("config", ["{", "[]", '"text"'])
def test_a_config_that_is_no_json_object(tmp_path: Path, config: str) -> None:
    path = tmp_path / "odd.safetensors"
    save_file({"a": np.zeros(1, np.float32)}, path, metadata={"config": config})
    with pytest.raises(CheckpointError, match="config"):
        load(path)


@pytest.mark.parametrize("kept", [0, 4, 8, 1_000, 100_000, -1])
def test_truncated(golden_098: Golden, tmp_path: Path, kept: int) -> None:
    path = tmp_path / "truncated.safetensors"
    path.write_bytes(golden_098.checkpoint.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"truncated|not a safetensors file"):
        load(path)


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04 a zip file, as PyTorch writes them" * 10,
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 9) + b'{"a": {}}',
        struct.pack("<Q", 10) + b"not json!!",
        struct.pack("<Q", 65) + b'{"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}    ' + bytes(4),
    ],
)
def test_not_safetensors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="safetensors"):
        load(path)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "absent.safetensors", "there is no file"), (tmp_path, "is a folder")):
        with pytest.raises(CheckpointError, match=words):
            load(path)


def test_bfloat16_files_load_in_either_precision() -> None:
    pocket = DATA.parent.parent / "ltx_models" / "pocket" / "pocket.safetensors"
    for dtype in (mx.float32, mx.bfloat16):
        vae = load_vae(SingleFile(pocket), dtype)
        assert vae.decoder.conv_in.conv.weight.dtype == dtype
        assert vae.per_channel_statistics["mean-of-means"].dtype == mx.float32


def test_a_text_encoder_of_another_width_is_refused(golden_098: Golden) -> None:
    pocket = DATA.parent.parent / "ltx_models" / "pocket"
    pipe = LTXPipeline.from_files(
        checkpoint=golden_098.checkpoint, text_encoder=pocket / "text_encoder", tokenizer=TOKENIZER
    )
    with pytest.raises(CheckpointError, match="128 channels"):
        pipe.load_models()


def test_identity(golden_098: Golden) -> None:
    hashes = {name: file_hash(files) for name, files in golden_098.pipeline().hashed_files.items()}
    assert hashes["checkpoint"] == hashlib.sha256(golden_098.checkpoint.read_bytes()).hexdigest()
    assert re.fullmatch("[0-9a-f]{64}", hashes["text_encoder"])
    assert hashes["text_encoder"] != hashes["checkpoint"]
