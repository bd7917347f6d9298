"""Test what `ltx models convert` writes, and that nothing remains when it fails."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ltx_models import convert
from ltx_models.checkpoint import ShardedFile, open_checkpoint
from ltx_models.errors import CheckpointError
from ltx_models.pipeline.text_to_video import LTXPipeline
from ltx_models.transformers.ltxv import load_transformer
from tests.models.checkpoint.raw_safetensors import Entries, f32, read_raw, write_raw
from tests.models.conftest import Golden, RawCheckpoint, Run

PREFIX = "model.diffusion_model."


def test_what_is_there_stays_as_it_is(convert_command: Run, golden_098: Golden, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_text("mine")
    for name in ("folder", "link", "file"):
        code, lines = convert_command(golden_098.checkpoint, tmp_path / name)
        assert (code, len(lines)) == (2, 1)
        assert "exists already" in lines[0]
    for name in ("file/out", "x" * 300):
        code, lines = convert_command(golden_098.checkpoint, tmp_path / name)
        assert (code, len(lines)) == (2, 1)
        assert "could not be created: " in lines[0]
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "link"]
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_one_that_fails_half_way_leaves_nothing(
    golden_098: Golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    write = convert.write_tensors

    def fail_at_the_second(path: Path, *rest: Any) -> None:
        write(path, *rest)
        if path.name == "vae.safetensors":
            raise error

    monkeypatch.setattr(convert, "write_tensors", fail_at_the_second)
    with pytest.raises(type(error)):
        convert.convert(golden_098.checkpoint, tmp_path / "new" / "deep" / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (lambda golden, pocket: {"text_encoder": pocket / "text_encoder"}, "makes embeddings of 128 channels"),
        (lambda golden, pocket: {"text_encoder": golden.checkpoint}, "is not a folder"),
        (lambda golden, pocket: {"text_encoder": golden.folder}, "config.json cannot be read"),
        (lambda golden, pocket: {"tokenizer": golden.checkpoint}, "is not a SentencePiece model"),
    ],
)
def test_the_other_parts_are_checked_before_a_byte_is_written(
    golden_098: Golden, pocket: LTXPipeline, tmp_path: Path, options: Callable[..., Any], words: str
) -> None:
    folder = pocket.hashed_files["checkpoint"][0].parent
    with pytest.raises(CheckpointError, match=words):
        convert.convert(golden_098.checkpoint, tmp_path / "out", **options(golden_098, folder))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("quantize", [None, 8, 4])
@pytest.mark.parametrize("at_fault", ["transformer", "text_encoder"])
def test_a_single_nan_is_found_also_where_it_is_quantized(
    pocket: LTXPipeline, tmp_path: Path, at_fault: str, quantize: int | None
) -> None:
    """Quantizing would hide it among the other numbers of a group."""
    folder = pocket.hashed_files["checkpoint"][0].parent
    encoder = shutil.copytree(folder / "text_encoder", tmp_path / "encoder")
    checkpoint = Path(shutil.copy(folder / "pocket.safetensors", tmp_path))
    path, matrix = {
        "transformer": (checkpoint, f"{PREFIX}transformer_blocks.0.attn1.to_v.weight"),
        "text_encoder": (encoder / "model.safetensors", "encoder.block.0.layer.0.SelfAttention.q.weight"),
    }[at_fault]
    entries, metadata = read_raw(path)
    dtype, shape, data = entries[matrix]
    assert dtype == "BF16"
    write_raw(path, entries | {matrix: (dtype, shape, data[:100] + b"\xc0\x7f" + data[102:])}, metadata)
    with pytest.raises(CheckpointError, match="NaN or infinite values"):
        convert.convert(checkpoint, tmp_path / "new" / "out", quantize=quantize, text_encoder=encoder)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("file", "words"),
    [("", "is a folder"), ("..", "is a folder"), ("x/", "there is no file .*/x;"), ("x" * 300, "File name too long")],
)
def test_a_name_of_another_file_that_is_none(
    convert_command: Run, raw_098: RawCheckpoint, tmp_path: Path, file: str, words: str
) -> None:
    """Such a name may be in the metadata, and in an index."""
    (tmp_path / "in").mkdir()
    path = write_raw(tmp_path / "in" / "model.safetensors", raw_098[0], raw_098[1] | {"vae_file": file})
    code, lines = convert_command(path, tmp_path / "out")
    assert (code, len(lines)) == (2, 1)
    assert re.search(words, lines[0])
    assert "could not be created" not in lines[0]
    index_of(tmp_path / "in", dict.fromkeys(raw_098[0], file))
    code, lines = convert_command(tmp_path / "in", tmp_path / "out")
    assert (code, len(lines)) == (2, 1)
    assert "weight_map" in lines[0] or re.search(words, lines[0])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_a_terminal_is_given_no_escape_sequence(
    convert_command: Run, raw_098: RawCheckpoint, tmp_path: Path, prefix: str
) -> None:
    """A tensor's name may contain one."""
    extra = {f"{prefix}\x1b[31mred\n{'x' * 5000}": f32(np.zeros(4))}
    code, lines = convert_command(write_raw(tmp_path / "a", raw_098[0] | extra, raw_098[1]), tmp_path / "out")
    assert (code, len(lines)) == (2 if prefix else 0, 1)
    assert " [31mred xxx" in lines[0]
    assert lines[0].isprintable()
    assert len(lines[0]) < 1000


def test_what_is_left_out_is_said(convert_command: Run, raw_098: RawCheckpoint, tmp_path: Path) -> None:
    extra = {"text_encoders.t5xxl.shared.weight": f32(np.zeros(4)), "first_stage_model.foo": f32(np.zeros(4))}
    path = write_raw(tmp_path / "model.safetensors", raw_098[0] | extra, raw_098[1])
    code, lines = convert_command(path, tmp_path / "out")
    assert code == 0
    assert lines == [
        "left out, since neither the transformer nor the VAE has them: 2 tensors (text_encoders.t5xxl.shared.weight, …)"
    ]


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "transformer."])
def test_other_prefixes_are_read(raw_098: RawCheckpoint, golden_098: Golden, tmp_path: Path, prefix: str) -> None:
    entries = {
        f"{prefix}{name.removeprefix(PREFIX)}" if name.startswith(PREFIX) else name: value
        for name, value in raw_098[0].items()
    }
    ours = open_checkpoint(write_raw(tmp_path / "model.safetensors", entries, raw_098[1]))
    expected = golden_098.file.weights("transformer")
    assert ours.weights("transformer").keys() == expected.keys()
    assert ours.weights("vae").keys() == golden_098.file.weights("vae").keys()
    load_transformer(ours, mx.float32)


def sharded(folder: Path, entries: Entries, metadata: dict[str, str]) -> dict[str, str]:
    """Write two files; return where each tensor is."""
    half = len(entries) // 2
    found: dict[str, str] = {}
    for number, names in enumerate((list(entries)[:half], list(entries)[half:]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        write_raw(folder / file, {name: entries[name] for name in names}, metadata)
        found |= dict.fromkeys(names, file)
    return found


def index_of(folder: Path, weight_map: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_an_official_file_in_parts_is_read(raw_098: RawCheckpoint, golden_098: Golden, tmp_path: Path) -> None:
    index_of(tmp_path, sharded(tmp_path, *raw_098))
    ours = open_checkpoint(tmp_path)
    assert isinstance(ours, ShardedFile)
    assert len(ours.files) == 2
    for got, expected in (
        (ours.weights("transformer"), golden_098.file.weights("transformer")),
        (ours.weights("vae"), golden_098.file.weights("vae")),
    ):
        assert got.keys() == expected.keys()
        assert all(mx.array_equal(got[name], expected[name]) for name in expected)


def test_an_index_that_lies(convert_command: Run, raw_098: RawCheckpoint, tmp_path: Path) -> None:
    places = sharded(tmp_path, *raw_098)
    first = next(iter(places))
    last = list(places)[-1]
    cases = {
        "says that": {**places, last: places[first]},
        "does not say that": {name: file for name, file in places.items() if name != first},
        "there is no file": {**places, "more": "model-00003-of-00003.safetensors"},
        "has no weight_map": [],
    }
    for words, weight_map in cases.items():
        index_of(tmp_path, weight_map)
        code, lines = convert_command(tmp_path, tmp_path / "out")
        assert (code, len(lines)) == (2, 1)
        assert words in lines[0]
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "neither transformer/config.json"),
        ({"a.safetensors": b""}, "is named as a file, such as"),
        ({"config.json": b'{"_class_name": "LTXVideoTransformer3DModel"}'}, "name the folder that it is in"),
        ({"transformer/config.json": b'{"_class_name": "WanTransformer3DModel"}'}, "holds another model"),
        (
            {"transformer.safetensors": b"GGUF" + bytes(64), "config.json": b'{"transformer": {}, "vae": {}}'},
            "does not say",
        ),
    ],
)
def test_folders_of_something_else(convert_command: Run, tmp_path: Path, files: dict[str, bytes], words: str) -> None:
    for name, data in files.items():
        (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "src" / name).write_bytes(data)
    (tmp_path / "src").mkdir(exist_ok=True)
    code, lines = convert_command(tmp_path / "src", tmp_path / "out")
    assert (code, len(lines)) == (2, 1)
    assert words in lines[0]
    assert not (tmp_path / "out").exists()


def test_a_folder_of_pickles_says_so(golden_098: Golden, tmp_path: Path) -> None:
    """The original T5 repositories are such folders."""
    config = (golden_098.text_encoder / "config.json").read_text()
    (tmp_path / "config.json").write_text(config)
    with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    with pytest.raises(CheckpointError, match=r"there is no file .*; pytorch_model\.bin is .* a PyTorch pickle"):
        convert.convert(golden_098.checkpoint, tmp_path / "out", text_encoder=tmp_path)


def test_paths_that_are_no_file(convert_command: Run, tmp_path: Path) -> None:
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "gone")
    for name, words in (
        ("link.safetensors", "it is a broken link to"),
        ("absent.safetensors", "there is no file, folder or variant"),
    ):
        code, lines = convert_command(tmp_path / name, tmp_path / "out")
        assert (code, len(lines)) == (2, 1)
        assert words in lines[0]
