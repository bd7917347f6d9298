"""Test weights in fp8 and in scaled integers, under every name that files use for these, against their numbers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ltx_models.checkpoint import Checkpoint, load_tensors, open_checkpoint
from ltx_models.convert import convert
from ltx_models.errors import CheckpointError
from ltx_models.families.ltxv import TRANSFORMER_MATRICES
from ltx_models.layers.fp8 import name_scales, widened
from ltx_models.layers.quantization import Fp8Linear
from ltx_models.text_encoders.t5 import load_text_encoder, text_encoder_files
from ltx_models.transformers.ltxv import load_transformer
from tests.models.checkpoint.raw_safetensors import (
    E4M3,
    Entries,
    Entry,
    f32,
    floats,
    read_raw,
    to_e4m3,
    to_e5m2,
    write_raw,
)
from tests.models.conftest import Golden, relative_error

PREFIX = "model.diffusion_model."
KINDS: dict[str, dict[str, Any]] = {
    "e4m3, LTX's names": {"scale": "weight_scale", "shape": [], "extra": {"input_scale": f32(1.0)}},
    "e4m3, ComfyUI's names": {"scale": "scale_weight", "shape": [1], "extra": {"scale_input": f32([1.0])}},
    "e4m3, a scale for each row": {"scale": "weight_scale", "shape": ["rows", 1]},
    "e4m3, rows in one dimension": {"scale": "weight_scale", "shape": ["rows"]},
    "e4m3, newer ComfyUI's mark": {
        "scale": "weight_scale",
        "shape": [],
        "extra": {"comfy_quant": ("U8", [2], b"{}")},
    },
    "e4m3 without scales": {"scale": None},
    "e5m2 without scales": {"scale": None, "store": "F8_E5M2"},
    "e5m2 and a scale": {"scale": "scale_weight", "shape": [], "store": "F8_E5M2"},
    "int8 and scales for rows": {"scale": "weight_scale", "shape": ["rows", 1], "store": "I8"},
}


def stored(values: np.ndarray, store: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the bytes of values, and the numbers that these mean by the format's definition."""
    if store == "F8_E4M3":
        return (codes := to_e4m3(values)), E4M3[codes]
    if store == "F8_E5M2":
        codes = to_e5m2(values)
        return codes, (codes.astype(np.uint16) << 8).view(np.float16).astype(np.float32)
    whole = np.clip(np.round(values), -127, 127).astype(np.int8)
    return whole.view(np.uint8), whole.astype(np.float32)


def matrix(entry: Entry, scale: str | None, shape: Any = (), store: str = "F8_E4M3", **_: Any) -> tuple[Any, ...]:
    """Return a stored matrix, its scale, and the numbers that both mean."""
    values = floats(entry)
    per_row = "rows" in shape
    largest = {"F8_E4M3": 400, "F8_E5M2": 20000, "I8": 127}[store]
    scales = np.abs(values).max(axis=1, keepdims=True) if per_row else np.abs(values).max()
    scales = np.float32(scales / largest) if scale else np.float32(1)
    codes, numbers = stored(values / scales, store)
    laid = scales.reshape([len(values) if size == "rows" else size for size in shape])
    return (store, entry[1], codes.tobytes()), f32(laid), f32(numbers * scales)


def both(golden: Golden, folder: Path, kind: dict[str, Any], *, every_matrix: bool = False) -> tuple[Path, Path]:
    """Return the golden's checkpoint with its blocks' matrices, or all, so stored, and with the numbers they mean."""
    entries, metadata = read_raw(golden.checkpoint)
    ours: Entries = dict(entries)
    plain: Entries = dict(entries)
    for name, entry in entries.items():
        layer = name.removeprefix(PREFIX).removesuffix(".weight")
        chosen = re.fullmatch(TRANSFORMER_MATRICES, layer) or (every_matrix and name.startswith(PREFIX))
        if chosen and name.endswith(".weight") and len(entry[1]) == 2:
            ours[name], scale, plain[name] = matrix(entry, **kind)
            if kind["scale"]:
                ours[name.removesuffix("weight") + kind["scale"]] = scale
            ours |= {name.removesuffix("weight") + extra: value for extra, value in kind.get("extra", {}).items()}
    ours[f"{PREFIX}scaled_fp8"] = ("F8_E4M3", [2], bytes(2))
    return (
        write_raw(folder / "stored.safetensors", ours, metadata),
        write_raw(folder / "plain.safetensors", plain, metadata),
    )


def velocity(file: Checkpoint, golden: Golden, quantize: int | None = None) -> np.ndarray:
    model = load_transformer(file, mx.float32, quantize)
    conditioning = model.prepare(golden.mx("t5.output")[:1], None, golden["dit.pixel_coords"], 25.0)
    return np.array(model(golden.mx("dit.tokens"), mx.array([0.7]), conditioning))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_they_are_the_numbers_that_they_mean(golden_098: Golden, tmp_path: Path, kind: dict[str, Any]) -> None:
    ours, plain = both(golden_098, tmp_path, kind)
    expected = velocity(open_checkpoint(plain), golden_098)
    assert relative_error(velocity(open_checkpoint(ours), golden_098), expected) < 1e-6
    assert relative_error(expected, velocity(golden_098.file, golden_098)) < 0.15  # fp8's own rounding
    convert(ours, tmp_path / "out")
    assert relative_error(velocity(open_checkpoint(tmp_path / "out"), golden_098), expected) < 1e-6


def test_every_byte_is_its_number(tmp_path: Path) -> None:
    """Test all bytes of e4m3 and e5m2, and float64, as a checkpoint's tensors are read."""
    codes = np.arange(256, dtype=np.uint8)
    wide = np.array([0.0, 1 / 3, -1e300, 5e-324, np.pi])
    path = write_raw(
        tmp_path / "x.safetensors",
        {
            "odd": ("U8", [3], b"abc"),  # so that nothing lies at a multiple of its size
            "a": ("F8_E4M3", [16, 16], codes.tobytes()),
            "b": ("F8_E5M2", [256], codes.tobytes()),
            "c": ("F64", [1, 5], wide.tobytes()),
        },
        {},
    )
    tensors, _ = load_tensors(path)
    np.testing.assert_array_equal(np.array(widened(tensors["a"], mx.float32)).reshape(-1), E4M3)
    with np.errstate(invalid="ignore"):
        e5m2 = (codes.astype(np.uint16) << 8).view(np.float16)
    np.testing.assert_array_equal(np.array(tensors["b"]), e5m2)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(np.array(tensors["c"]), wide.astype(np.float32)[None])


def test_layers_that_are_not_of_the_blocks_are_scaled_too(golden_098: Golden, tmp_path: Path) -> None:
    ours, plain = both(golden_098, tmp_path, KINDS["e4m3, LTX's names"], every_matrix=True)
    expected = velocity(open_checkpoint(plain), golden_098)
    assert relative_error(velocity(open_checkpoint(ours), golden_098), expected) < 1e-6


def test_scaled_layers_stay_in_fp8(golden_098: Golden, tmp_path: Path) -> None:
    ours, _ = both(golden_098, tmp_path, KINDS["e4m3, a scale for each row"])
    model = load_transformer(open_checkpoint(ours), mx.bfloat16)
    layer = model.transformer_blocks[0].attn1.to_qkv
    assert isinstance(layer, Fp8Linear)
    assert layer.weight.dtype == mx.uint8
    assert layer.weight_scale.dtype == mx.float32
    assert layer.weight_scale.shape == (layer.weight.shape[0], 1)


@pytest.mark.parametrize("kind", ["e4m3, ComfyUI's names", "e5m2 and a scale"])
def test_they_can_be_quantized(golden_098: Golden, tmp_path: Path, kind: str) -> None:
    ours, plain = both(golden_098, tmp_path, KINDS[kind])
    expected = velocity(open_checkpoint(plain), golden_098, 8)
    assert relative_error(velocity(open_checkpoint(ours), golden_098, 8), expected) < 1e-6
    convert(ours, tmp_path / "out", quantize=8)
    assert relative_error(velocity(open_checkpoint(tmp_path / "out"), golden_098), expected) < 1e-6


def test_a_text_encoder_with_scales(golden_098: Golden, tmp_path: Path) -> None:
    """It is like ComfyUI's t5xxl_fp8_e4m3fn_scaled: all matrices, including the embedding."""
    entries: Entries = {}
    for path in text_encoder_files(golden_098.text_encoder):
        entries |= read_raw(path)[0]
    outputs = []
    for folder in ("stored", "plain"):
        made: Entries = {"scaled_fp8": ("F8_E4M3", [0], b"")}
        for name, entry in entries.items():
            if len(entry[1]) == 2 and name.endswith(".weight") and "relative" not in name:
                kept, scale, plain = matrix(entry, "scale_weight")
                made[name] = kept if folder == "stored" else plain
                if folder == "stored":
                    made[name.removesuffix("weight") + "scale_weight"] = scale
            else:
                made[name] = entry
        (tmp_path / folder).mkdir()
        config = (golden_098.text_encoder / "config.json").read_text()
        (tmp_path / folder / "config.json").write_text(config)
        write_raw(tmp_path / folder / "model.safetensors", made, {})
        encoder = load_text_encoder(tmp_path / folder, mx.float32)
        outputs.append(np.array(encoder(golden_098.mx("t5.input_ids"), golden_098.mx("t5.attention_mask"))))
    assert relative_error(*outputs) < 1e-6


@pytest.mark.parametrize("shape", [[2], [1, 64], [2, 2], [64, 1, 1]])
def test_other_shapes_of_scales_are_refused_by_name(tmp_path: Path, shape: list[int]) -> None:
    weights = {"a.weight": mx.zeros((64, 64), mx.uint8), "a.weight_scale": mx.ones(shape)}
    with pytest.raises(
        CheckpointError, match=r"a\.weight_scale of the shape .*one scale\s+for a matrix or one for each"
    ):
        name_scales(weights, tmp_path)


def test_two_scales_of_one_weight_are_refused(tmp_path: Path) -> None:
    weights = {"a.weight": mx.zeros((4, 4), mx.uint8), "a.scale_weight": mx.ones([]), "a.weight_scale": mx.ones([])}
    with pytest.raises(CheckpointError, match="two scales for a"):
        name_scales(weights, tmp_path)


def test_a_scale_without_its_weight_is_unexpected(golden_098: Golden, tmp_path: Path) -> None:
    entries, metadata = read_raw(golden_098.checkpoint)
    entries[f"{PREFIX}transformer_blocks.9.attn1.to_q.weight_scale"] = f32(1.0)
    path = write_raw(tmp_path / "x.safetensors", entries, metadata)
    with pytest.raises(CheckpointError, match=r"unexpected tensor transformer_blocks\.9\.attn1\.to_q\.weight_scale"):
        load_transformer(open_checkpoint(path), mx.float32)
