"""Test fewer bits: how far a model's output moves, and that loading takes no more memory than necessary."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map_with_path

from ltx_models.checkpoint import SingleFile, load_weights
from ltx_models.errors import CheckpointError
from ltx_models.events import Finished
from ltx_models.families.ltxv import TEXT_ENCODER_MATRICES, TRANSFORMER_MATRICES
from ltx_models.layers.quantization import Fp8Linear, Quantization
from ltx_models.pipeline.text_to_video import LTXPipeline
from ltx_models.pocket.judge import judge
from ltx_models.request import GenerationRequest
from ltx_models.text_encoders.t5 import T5Config, T5Encoder, load_text_encoder
from ltx_models.transformers.ltxv import Transformer, TransformerConfig, load_transformer, pixel_coordinates
from tests.models.conftest import DATA, TOKENIZER, Golden, relative_error

DIT_BOUND = 3e-5
POCKET = DATA.parent.parent / "ltx_models" / "pocket"
CAPTIONS = json.loads((DATA / "pocket" / "prompts.json").read_text())

LIKE_2B = TransformerConfig(
    num_attention_heads=8,
    attention_head_dim=64,
    num_layers=28,
    in_channels=128,
    out_channels=128,
    caption_channels=256,
    causal_temporal_positioning=True,
)
"""The 2B model's depth, heads and shape at a quarter of its width."""
LIKE_XXL = T5Config(vocab_size=128, d_model=256, d_kv=64, d_ff=640, num_layers=6, num_heads=4)


def random_weights(model: nn.Module, seed: int) -> dict[str, mx.array]:
    """Return matrices N(0, 1/fan_in), small biases and tables, and norms of 1: activations stay near unit size."""
    random = np.random.default_rng(seed)

    def draw(name: str, value: mx.array) -> mx.array:
        if "norm" in name and value.ndim == 1:
            return mx.ones(value.shape)
        scale = value.shape[-1] ** -0.5 if value.ndim == 2 else 0.02
        return mx.array(random.standard_normal(value.shape, np.float32) * np.float32(scale))

    named: Any = tree_flatten(tree_map_with_path(draw, model.parameters()))
    return dict(named)


def to_fp8(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """Cast block matrices without scaling, as the official fp8 files are made."""
    return {
        name: mx.to_fp8(value)
        if name.startswith("transformer_blocks.") and value.ndim == 2 and name.endswith(".weight")
        else value
        for name, value in weights.items()
    }


def dit_output(weights: dict[str, mx.array], bits: int | None = None) -> np.ndarray:
    model = Transformer(LIKE_2B)
    quantization = Quantization(bits=bits, layers=TRANSFORMER_MATRICES) if bits else None
    load_weights(model, dict(weights), source=Path("random"), dtype=mx.float32, quantization=quantization)
    random = np.random.default_rng(1)
    text = mx.array(random.standard_normal((1, 16, 256), np.float32))
    tokens = mx.array(random.standard_normal((1, 2 * 3 * 4, 128), np.float32))
    conditioning = model.prepare(text, None, pixel_coordinates(2, 3, 4, causal=True), 25.0)
    return np.array(model(tokens, mx.array([0.7]), conditioning))


@pytest.fixture(scope="module")
def dit_weights() -> dict[str, mx.array]:
    return random_weights(Transformer(LIKE_2B), 0)


@pytest.fixture(scope="module")
def unquantized(dit_weights: dict[str, mx.array]) -> np.ndarray:
    return dit_output(dit_weights)


@pytest.mark.parametrize(
    ("kind", "bound"),
    [
        ("fp8", 0.07),
        *(pytest.param(*row, marks=pytest.mark.lane("models")) for row in (("8 bits", 0.02), ("4 bits", 0.20))),
    ],
)
def test_one_call_of_the_transformer(
    dit_weights: dict[str, mx.array], unquantized: np.ndarray, kind: str, bound: float
) -> None:
    ours = dit_output(to_fp8(dit_weights)) if kind == "fp8" else dit_output(dit_weights, bits=int(kind[0]))
    error = relative_error(ours, unquantized)
    assert bound / 10 < error < bound


@pytest.mark.parametrize(("bits", "bound"), [(8, 0.04), (4, 0.5)])
def test_the_text_encoder(bits: int, bound: float) -> None:
    weights = random_weights(T5Encoder(LIKE_XXL), 0)
    for name in weights:
        if name.endswith(".q.weight"):
            weights[name] *= LIKE_XXL.d_kv**-0.5  # as T5 is initialized: its scores are not scaled
    ids, mask = mx.arange(24)[None], mx.ones((1, 24), mx.int32)
    outputs = []
    for quantization in (None, Quantization(bits=bits, layers=TEXT_ENCODER_MATRICES)):
        model = T5Encoder(LIKE_XXL)
        load_weights(model, dict(weights), source=Path("random"), dtype=mx.float32, quantization=quantization)
        outputs.append(np.array(model(ids, mask)))
    error = relative_error(outputs[1], outputs[0])
    assert bound / 10 < error < bound


def test_only_the_matrices_of_the_blocks_are_quantized(golden_098: Golden) -> None:
    model = load_transformer(golden_098.file, mx.float32, quantize=8)
    quantized = {name for name, layer in model.named_modules() if isinstance(layer, nn.QuantizedLinear)}
    assert len(quantized) == 3 * (2 + 3 + 2)  # queries, keys and values are one product, those of the text two
    assert all(name.startswith("transformer_blocks.") for name in quantized)
    encoder = load_text_encoder(POCKET / "text_encoder", mx.float32, quantize=4)
    assert isinstance(encoder.encoder.block[0].layer[1].DenseReluDense.wo, nn.QuantizedLinear)
    assert type(encoder.shared) is nn.Embedding
    assert encoder.shared.weight.dtype == mx.float32


def test_rows_that_are_no_whole_groups_keep_their_precision(golden_090: Golden) -> None:
    """The 0.9.0 golden is 48 wide: only the feed-forward's second matrix has rows of whole groups (192)."""
    model = load_transformer(golden_090.file, mx.float32, quantize=8)
    quantized = {name for name, layer in model.named_modules() if isinstance(layer, nn.QuantizedLinear)}
    assert quantized == {f"transformer_blocks.{index}.ff.net.2" for index in range(2)}


def test_other_bits_are_refused(golden_098: Golden) -> None:
    with pytest.raises(CheckpointError, match="8 and 4 are"):
        load_transformer(golden_098.file, mx.float32, quantize=3)


def test_fp8_output(golden: Golden, golden_098: Golden) -> None:
    """There is an official fp8 file of 0.9.8; for 0.9.0, which has none, its own weights are cast."""
    if golden is golden_098:
        model = load_transformer(SingleFile(golden.fp8_checkpoint), mx.float32)
    else:
        model = Transformer(load_transformer(golden.file, mx.float32).config)
        load_weights(
            model,
            to_fp8(golden.file.weights("transformer")),
            source=golden.checkpoint,
            dtype=mx.float32,
        )
        model.fuse()
    assert isinstance(model.transformer_blocks[0].attn1.to_qkv, Fp8Linear)
    assert model.transformer_blocks[0].ff.net[2].weight.dtype == mx.uint8
    text, mask = golden.mx("t5.output")[:1], golden.mx("t5.attention_mask")[:1]
    conditioning = model.prepare(text, mask, golden["dit.pixel_coords"], golden.settings["frame_rate"])
    output = model(golden.mx("dit.tokens"), mx.array([0.7]), conditioning)
    assert relative_error(output, golden["dit.fp8.output"]) < DIT_BOUND


def test_an_fp8_file_can_be_quantized_too(golden_098: Golden) -> None:
    model = load_transformer(SingleFile(golden_098.fp8_checkpoint), mx.float32, quantize=8)
    assert isinstance(model.transformer_blocks[0].attn1.to_qkv, nn.QuantizedLinear)


def rewritten(golden: Golden, tmp_path: Path, change: dict[str, mx.array]) -> SingleFile:
    """Return the golden's checkpoint with some of the transformer's tensors replaced."""
    loaded: Any = mx.load(str(golden.checkpoint), return_metadata=True)
    tensors, metadata = loaded
    changed = tensors | {f"model.diffusion_model.{name}": value for name, value in change.items()}
    mx.save_safetensors(str(tmp_path / "changed.safetensors"), changed, metadata)
    return SingleFile(tmp_path / "changed.safetensors")


def test_fp8_outside_of_the_blocks_is_widened(golden_098: Golden, tmp_path: Path) -> None:
    weights = golden_098.file.weights("transformer")
    names = ("proj_out.weight", "scale_shift_table", "transformer_blocks.0.attn1.q_norm.weight")
    model = load_transformer(
        rewritten(golden_098, tmp_path, {name: mx.to_fp8(weights[name]) for name in names}), mx.bfloat16
    )
    assert model.proj_out.weight.dtype == model.scale_shift_table.dtype == mx.bfloat16
    assert mx.allclose(model.proj_out.weight.astype(mx.float32), weights["proj_out.weight"], rtol=0.07, atol=0.01)


def test_integers_are_refused(golden_098: Golden, tmp_path: Path) -> None:
    weight = golden_098.file.weights("transformer")["proj_out.weight"]
    with pytest.raises(CheckpointError, match=r"wrong type in tensor proj_out\.weight \(int32\)"):
        load_transformer(rewritten(golden_098, tmp_path, {"proj_out.weight": weight.astype(mx.int32)}), mx.float32)


@pytest.mark.parametrize(
    "kind", ["fp8", *(pytest.param(kind, marks=pytest.mark.lane("models")) for kind in ("8 bits", "4 bits"))]
)
def test_loading_holds_one_block_at_full_precision(dit_weights: dict[str, mx.array], tmp_path: Path, kind: str) -> None:
    weights = to_fp8(dit_weights) if kind == "fp8" else dit_weights
    path = tmp_path / "model.safetensors"
    mx.save_safetensors(str(path), {f"model.diffusion_model.{name}": value for name, value in weights.items()})
    whole = sum(value.nbytes for value in weights.values())
    loaded: Any = mx.load(str(path))
    model = Transformer(LIKE_2B)
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    load_weights(
        model,
        {name.removeprefix("model.diffusion_model."): loaded.pop(name) for name in list(loaded)},
        source=path,
        dtype=mx.float32,
        quantization=None if kind == "fp8" else Quantization(bits=int(kind[0]), layers=TRANSFORMER_MATRICES),
    )
    resident = mx.get_active_memory() - before
    peak = mx.get_peak_memory() - before
    block = whole / LIKE_2B.num_layers
    assert resident < (1.01 if kind == "fp8" else 0.35) * whole
    assert peak < resident + 2 * block


@pytest.mark.lane("models")
def test_pocket_follows_its_prompts() -> None:
    """Three of its captions are tried; all 24 are right, at 4 bits too."""
    pipe = LTXPipeline.from_files(
        checkpoint=POCKET / "pocket.safetensors",
        text_encoder=POCKET / "text_encoder",
        tokenizer=POCKET / "tokenizer" / "spiece.model",
        quantize_transformer=8,
        quantize_text_encoder=8,
        dtype=mx.float32,
    )
    template = GenerationRequest(
        prompt="x", num_steps=8, guidance_scale=3.0, width=128, height=128, num_frames=25, frame_rate=12.0, seed=0
    )
    for caption in CAPTIONS[::8]:
        *_, last = pipe.stream(dataclasses.replace(template, prompt=caption))
        assert isinstance(last, Finished)
        verdict = judge(last.result.frames, caption)
        assert verdict.colour and verdict.motion, caption


def test_from_files_quantizes_what_it_is_asked_to(golden_098: Golden) -> None:
    pipe = LTXPipeline.from_files(
        checkpoint=golden_098.checkpoint,
        text_encoder=golden_098.text_encoder,
        tokenizer=TOKENIZER,
        quantize_transformer=4,
        dtype=mx.float32,
    )
    assert pipe.variant.bits == {"transformer": 4}
