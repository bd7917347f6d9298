"""Test files that are no checkpoints, whatever their names: the error says what they are, and what to do."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ltx_models import convert
from ltx_models.checkpoint import open_checkpoint
from ltx_models.errors import CheckpointError
from ltx_models.families.variants import find_variant
from ltx_models.files.hub import verify
from ltx_models.pipeline.text_to_video import LTXPipeline
from tests.models.checkpoint.raw_safetensors import Entries, f32, floats, write_raw
from tests.models.conftest import TOKENIZER, RawCheckpoint, Run, load_golden

PREFIX = "model.diffusion_model."
QUERY = f"{PREFIX}transformer_blocks.0.attn1.to_q.weight"
Change = Callable[[Entries, dict[str, Any]], Entries]


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, pickle.dumps({}))
    return buffer.getvalue()


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.safetensors"))
    return buffer.getvalue()


def gguf() -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, 0, 0) + bytes(64)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 6340729804\n" % (b"0" * 64)
LOGIN = "logged in where the model is gated"
SAFETENSORS = "take the safetensors file of the same model"

BYTES: dict[str, tuple[bytes, str, str]] = {
    "empty": (b"", "an empty file", "download it again"),
    "zeros": (bytes(100_000), "begins with zeros", "download it again"),
    "some bytes": (b"\xd8\x1f\x00\x00", "only its beginning", "download it again"),
    "Git LFS": (LFS, "a Git LFS pointer", "git lfs pull fetches the file itself"),
    "HTML": (b"<!DOCTYPE html><html><body>Access to model is restricted", "an HTML page", LOGIN),
    "HTML with a mark": (b"\xef\xbb\xbf\n <HTML lang='en'>", "an HTML page", LOGIN),
    "XML": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an HTML page", LOGIN),
    "an error": (b'{"error":"Invalid username or password."}', "a web server's error", LOGIN),
    "an index": (b'{"metadata": {}, "weight_map": {"a": "b.safetensors"}}', "the index", "name the folder"),
    "a config": (b'{\n  "transformer": {"num_layers": 28}}', "JSON, such as a config", "name the file of the weights"),
    "words": (b"Entry not found", 'a text that begins with "Entry not found"', "download it again"),
    "GGUF": (gguf(), "a GGUF file", "ltx models convert --quantize 4"),
    "PyTorch": (zipped("archive/data.pkl", "archive/version"), "a PyTorch pickle", SAFETENSORS),
    "PyTorch, cut": (zipped("m/data.pkl", "m/version")[:120], "a PyTorch pickle", SAFETENSORS),
    "PyTorch, another order": (zipped("m/version", "m/data.pkl"), "a PyTorch pickle", SAFETENSORS),
    "old PyTorch": (pickle.dumps({"state_dict": {}}, 2) + bytes(20), "a pickle", SAFETENSORS),
    "a pickle": (pickle.dumps({"state_dict": {}}), "a pickle", SAFETENSORS),
    "ZIP": (zipped("model.safetensors"), "a ZIP archive", "unpack it"),
    "tar": (tar(), "a tar archive", "unpack it"),
    "gzip": (b"\x1f\x8b\x08" + bytes(20), "a compressed file", "unpack it"),
    "NumPy": (b"\x93NUMPY\x01\x00v\x00{", "a NumPy array", "take the safetensors file"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(20), "an HDF5 file", "take the safetensors file"),
    "macOS's own": (b"\x00\x05\x16\x07" + bytes(80), "an AppleDouble file", "name the file without the ._"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(80), "a picture", "name the checkpoint"),
    "a HEIF picture": (b"\0\0\0\x20ftyphevx" + bytes(80), "a picture", "name the checkpoint"),
    "a WebM": (b"\x1a\x45\xdf\xa3" + bytes(80), "a video or audio file", "name the checkpoint"),
    "RAR": (b"Rar!\x1a\x07\x01" + bytes(20), "a compressed file", "unpack it"),
    "a clip": (b"\0\0\0\x20ftypisom" + bytes(80), "a video or audio file", "name the checkpoint"),
    "anything": (b"\xc1\xfe" * 50, "it does not begin with a header's length", "download it again"),
    "no header": (
        struct.pack("<Q", 10) + b"not json!!",
        "it does not begin with a header's length",
        "download it again",
    ),
    "half a header": (
        struct.pack("<Q", 10) + b'{"a": nul}',
        "its header is not the expected JSON",
        "download it again",
    ),
}


def only(*starts: str) -> Change:
    return lambda entries, _: {name: value for name, value in entries.items() if name.startswith(starts)}


def bare(*starts: str) -> Change:
    """Return those without their prefix."""
    return lambda entries, _: {
        name.removeprefix(start): value for name, value in entries.items() for start in starts if name.startswith(start)
    }


def named(*names: str) -> Change:
    return lambda _entries, _metadata: {name: f32(np.zeros((2, 2))) for name in names}


def with_query(make: Callable[[np.ndarray], Any], dtype: str | None = None) -> Change:
    def change(entries: Entries, _: dict[str, Any]) -> Entries:
        values = make(floats(entries[QUERY]))
        return entries | {QUERY: (dtype, entries[QUERY][1], values.tobytes()) if dtype else f32(values)}

    return change


def with_config(change: Callable[[dict[str, Any]], Any]) -> Change:
    def configured(entries: Entries, metadata: dict[str, Any]) -> Entries:
        config = json.loads(metadata["config"])
        change(config)
        metadata["config"] = json.dumps(config)
        return entries

    return configured


def without_metadata(entries: Entries, metadata: dict[str, Any]) -> Entries:
    metadata.clear()
    return entries


def poisoned(values: np.ndarray) -> np.ndarray:
    return np.where(np.arange(values.size).reshape(values.shape) == 5, np.float32("nan"), values)


LORA = "diffusion_model.transformer_blocks.0.attn1.to_q"
MADE_FOR = "name the checkpoint of the model that it was made for"
OFFICIAL = "name a checkpoint of LTX-Video 0.9.x"
BOTH = "which holds both"

MODELS: dict[str, tuple[Change, str, str]] = {
    "no tensors": (named(), "a safetensors file without tensors", "download it again"),
    "LoRA": (named(f"{LORA}.lora_A.weight", f"{LORA}.lora_B.weight"), "a LoRA", MADE_FOR),
    "LoRA, kohya's": (named("lora_unet_transformer_blocks_0_attn1_to_q.lora_down.weight"), "a LoRA", MADE_FOR),
    "LoRA, DiffSynth's": (named("transformer_blocks.0.attn1.to_q.lora_B.default.weight"), "a LoRA", MADE_FOR),
    "LoHa": (named(f"{LORA}.hada_w1_a"), "a LoRA", MADE_FOR),
    "LoKr": (named(f"{LORA}.lokr_w1"), "a LoRA", MADE_FOR),
    "differences": (named(f"{LORA}.diff", f"{LORA}.diff_b"), "a LoRA", MADE_FOR),
    "no prefix, no VAE": (bare(PREFIX), "a transformer without a VAE", BOTH),
    "no VAE": (only(PREFIX), "a transformer without a VAE", BOTH),
    "VAE alone": (only("vae."), "a VAE without a transformer", BOTH),
    "bare VAE": (bare("vae."), "a VAE without a transformer", BOTH),
    "T5": (
        named("shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight"),
        "a T5 text encoder",
        "--text-encoder",
    ),
    "Gemma": (named("model.layers.0.self_attn.q_proj.weight"), "a language or CLIP model", OFFICIAL),
    "LTX-2": (
        lambda entries, _: entries | named(f"{PREFIX}audio_patchify_proj.weight", "vocoder.conv.weight")({}, {}),
        "a model of the LTX-2 family",
        OFFICIAL,
    ),
    "upscaler": (
        named("initial_conv.weight", "post_upsample_res_blocks.0.conv1.weight"),
        "a latent upscaler",
        OFFICIAL,
    ),
    "SDXL": (named(f"{PREFIX}input_blocks.0.0.weight", f"{PREFIX}time_embed.0.weight"), "Stable Diffusion", OFFICIAL),
    "Flux": (named("double_blocks.0.img_attn.qkv.weight"), "Flux or HunyuanVideo", OFFICIAL),
    "Wan": (named("blocks.0.self_attn.q.weight", "patch_embedding.weight"), "the Wan family", OFFICIAL),
    "PixArt": (named("pos_embed.proj.weight", "transformer_blocks.0.attn1.to_q.weight"), "another family", OFFICIAL),
    "something": (named("a", "b"), "none of LTX-Video's tensors (but a, …)", OFFICIAL),
    "diffusers' transformer": (
        named("proj_in.weight", "time_embed.emb.weight", "transformer_blocks.0.attn1.to_q.weight"),
        "the transformer of a diffusers folder",
        "name the folder",
    ),
    "bitsandbytes": (
        lambda entries, _: entries | named(f"{QUERY}.absmax")({}, {}),
        "that bitsandbytes has quantized",
        "--quantize 4",
    ),
    "GPTQ": (named(QUERY.replace("weight", "qweight")), "quantized by GPTQ", "--quantize 4"),
    "NVFP4": (lambda entries, _: entries | named(f"{QUERY}_scale_2")({}, {}), "a model in NVFP4", "--quantize 4"),
    "no config": (without_metadata, "has no 'config' in its metadata", "take the official file"),
    "another depth": (
        with_config(lambda config: config["transformer"].update(num_layers=48)),
        "lacks tensors transformer_blocks.10.",
        "the model that its config describes has them",
    ),
    "another width": (
        with_config(lambda config: config["transformer"].update(caption_channels=64)),
        "wrong shape in tensor caption_projection.linear_1.weight",
        "the shapes are those that the config gives",
    ),
    "another VAE": (
        with_config(lambda config: config["vae"].update(latent_channels=8)),
        "wrong shape in tensor",
        "the shapes are those that the config gives",
    ),
    "another sampler": (
        with_config(lambda config: config["scheduler"].update(sampler="Magic")),
        "the sampler 'Magic' is not supported",
        "Uniform, LinearQuadratic are",
    ),
    "a layer more": (
        lambda entries, _: entries | {"vae.encoder.extra.weight": f32(np.zeros(4))},
        "holds unexpected tensor encoder.extra.weight",
        "the config names no such layers",
    ),
    "NaN": (with_query(poisoned), "to_q.weight has NaN or infinite values", "download it again"),
    "infinite": (with_query(lambda values: values * np.float32("inf")), "has NaN or infinite values", "download"),
    "int8": (
        with_query(lambda values: np.round(values * 100).astype(np.int8), "I8"),
        "wrong type in tensor transformer_blocks.0.attn1.to_q.weight (int8)",
        "or integers and their weight_scale",
    ),
    "int64": (with_query(lambda values: values.astype(np.int64), "I64"), "to_q.weight (int64)", "floating-point"),
    "mx": (with_query(lambda values: values.astype(np.uint8), "F8_E8M0"), "to_q.weight (uint16)", "floating-point"),
    "unheard of": (with_query(lambda values: values, "F99"), "unsupported types", "F8_E5M2"),
}


def refused(convert_command: Run, path: Path, *words: str) -> None:
    """Check that convert refuses it in one line and writes nothing, not even a folder; a render says the same."""
    before = sorted(path.parent.iterdir())
    code, lines = convert_command(path, path.parent / "deep" / "out")
    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith("Error: ")
    assert all(word in lines[0] for word in (str(path), *words)), lines[0]
    assert sorted(path.parent.iterdir()) == before
    golden = load_golden("0.9.8")
    pipe = LTXPipeline.from_files(checkpoint=path, text_encoder=golden.text_encoder, tokenizer=TOKENIZER)
    with pytest.raises(CheckpointError) as error:
        pipe.load_models(texts=False)
    assert all(word in str(error.value) for word in (str(path), *words))


@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
@pytest.mark.parametrize("kind", BYTES)
def test_files_that_are_not_safetensors(convert_command: Run, tmp_path: Path, kind: str, suffix: str) -> None:
    data, *words = BYTES[kind]
    (path := tmp_path / f"model.{suffix}").write_bytes(data)
    refused(convert_command, path, "is not a safetensors file", *words)


@pytest.mark.parametrize("kind", MODELS)
def test_safetensors_of_something_else(convert_command: Run, raw_098: RawCheckpoint, tmp_path: Path, kind: str) -> None:
    change, *words = MODELS[kind]
    metadata = dict(raw_098[1])
    entries = change(dict(raw_098[0]), metadata)
    path = write_raw(tmp_path / "model.safetensors", entries, metadata)
    if kind in ("a layer more", "another sampler"):  # which is found in a render when it is needed
        code, lines = convert_command(path, tmp_path / "out")
        assert (code, len(lines)) == (2, 1)
        assert all(word in lines[0] for word in words)
        assert list(tmp_path.iterdir()) == [path]
    else:
        refused(convert_command, path, *words)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda data: data[: len(data) // 2], "is truncated"),
        (lambda data: data[:100], "is truncated: it ends inside its header"),
        (lambda data: data + bytes(64), "64 bytes follow the last tensor that its header names"),
        (lambda data: data.replace(b'"data_offsets": [0, ', b'"data_offsets": [1, ', 1), "not the expected JSON"),
    ],
)
def test_cut_short_and_headers_that_lie(
    convert_command: Run,
    raw_098: RawCheckpoint,
    tmp_path: Path,
    edit: Callable[[bytes], bytes],
    words: str,
) -> None:
    path = write_raw(tmp_path / "model.safetensors", *raw_098)
    path.write_bytes(edit(path.read_bytes()))
    refused(convert_command, path, words, "download it again")


@pytest.mark.parametrize("places", [([0, 4], [0, 4]), ([0, 4], [2, 6]), ([0, 4], [8, 12])])
def test_tensors_that_share_bytes_or_leave_some_out(tmp_path: Path, places: tuple[list[int], list[int]]) -> None:
    header = {
        name: {"dtype": "F32", "shape": [1], "data_offsets": place} for name, place in zip("ab", places, strict=True)
    }
    text = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(max(end for _, end in places)))
    with pytest.raises(CheckpointError, match="assigns the same bytes to two tensors, or bytes to none"):
        open_checkpoint(path)


def test_verify_says_what_lies_in_a_files_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files were put into the models folder by hand, or converted: others have checksums."""
    monkeypatch.setenv("LTX_MODELS_DIR", str(tmp_path))
    path = tmp_path / "Lightricks" / "LTX-Video" / "ltxv-2b-0.9.8-distilled.safetensors"
    path.parent.mkdir(parents=True)
    for kind in ("Git LFS", "HTML", "GGUF", "PyTorch", "empty"):
        path.write_bytes(BYTES[kind][0])
        ((found, problem),) = verify(find_variant("distilled"))
        assert found == path
        assert problem.startswith("is not a safetensors file but ")
        assert BYTES[kind][1] in problem
    write_raw(path, {f"{LORA}.lora_A.weight": f32(np.zeros((2, 2)))}, {})
    assert [problem for _, problem in verify(find_variant("distilled"))] == [
        "is a LoRA, which changes a model and is not one itself; name the checkpoint of the model that it was made for"
    ]
    convert.convert(load_golden("0.9.8").checkpoint, tmp_path / "pocket")
    assert {found.name: problem for found, problem in verify(find_variant("pocket"))} == {
        "transformer.safetensors": "",
        "vae.safetensors": "",
    }
    (tmp_path / "pocket" / "vae.safetensors").write_bytes(LFS)
    assert "a Git LFS pointer" in dict(verify(find_variant("pocket")))[tmp_path / "pocket" / "vae.safetensors"]


@pytest.mark.parametrize("kind", ["empty", "zeros", "Git LFS", "HTML"])
def test_what_stands_in_the_place_of_a_small_file(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, convert_command: Run
) -> None:
    """A clone without LFS, or a failed download, leaves such a config or tokenizer."""
    monkeypatch.setenv("LTX_MODELS_DIR", str(tmp_path))
    folder = tmp_path / "pocket"
    assert convert_command("pocket", folder)[0] == 0
    for name in ("tokenizer/spiece.model", "text_encoder/config.json", "config.json"):
        (folder / name).write_bytes(BYTES[kind][0])
        problems = {path: problem for path, problem in verify(find_variant("pocket")) if problem}
        code, lines = convert_command("pocket", tmp_path / "out")
        assert (code, len(lines)) == (2, 1)
        for text in (*lines, *problems.values()):
            assert BYTES[kind][1] in text
            assert BYTES[kind][2] in text
        assert list(problems) == [folder / "tokenizer" / "spiece.model"]
        assert not (tmp_path / "out").exists()


def test_a_config_with_a_byte_order_mark_is_read(tmp_path: Path, convert_command: Run) -> None:
    assert convert_command("pocket", tmp_path / "first")[0] == 0
    config = tmp_path / "first" / "config.json"
    config.write_text(config.read_text(), encoding="utf-8-sig")
    assert convert_command(tmp_path / "first", tmp_path / "second") == (0, [])


def test_a_pickle_is_never_opened(convert_command: Run, tmp_path: Path) -> None:
    """It would write a file, in both of PyTorch's forms."""

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "exploded",)

    data = pickle.dumps(Bomb(), 2)
    (tmp_path / "old.ckpt").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "new.pt", "w") as archive:
        archive.writestr("archive/data.pkl", data)
    for name in ("old.ckpt", "new.pt"):
        refused(convert_command, tmp_path / name, "is not opened, since it can run any program")
    assert not (tmp_path / "exploded").exists()
