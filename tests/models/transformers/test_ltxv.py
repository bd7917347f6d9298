"""Test the fast computations of the transformer against slow ones."""

from __future__ import annotations

import functools
import gc
import shutil
import weakref
from typing import Any, get_args

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten

from ltx_models.families.architectures import POCKET
from ltx_models.ltxv.measured.random_models import random_vae
from ltx_models.request import Perturbing
from ltx_models.transformers import block as transformer_block
from ltx_models.transformers import ltxv as transformer_module
from ltx_models.transformers.ltxv import (
    Conditioning,
    Perturbation,
    TokenTimesteps,
    Transformer,
    TransformerConfig,
    pixel_coordinates,
)
from ltx_models.vae import model as vae_model
from tests.models.conftest import relative_error

CONFIG = TransformerConfig(
    num_attention_heads=2, attention_head_dim=32, num_layers=4, in_channels=8, out_channels=8, caption_channels=16
)
SIZE = (2, 3, 4)
COUNT = 24


def normal(*shape: int, seed: int = 0) -> mx.array:
    return mx.array(np.random.default_rng(seed).standard_normal(shape, np.float32))


def weights() -> dict[str, mx.array]:
    parameters: Any = tree_flatten(Transformer(CONFIG).parameters())
    return {name: 0.2 * normal(*value.shape, seed=index) for index, (name, value) in enumerate(parameters)}


@functools.cache
def model(*, fuse: bool = True) -> Transformer:
    result = Transformer(CONFIG)
    result.update(tree_unflatten(list(weights().items())))  # type: ignore[arg-type]
    if fuse:
        result.fuse()
    return result


def prepared(transformer: Transformer, rows: int) -> Conditioning:
    mask = mx.arange(5) < mx.array([[5], [3], [4]])[:rows]
    return transformer.prepare(normal(3, 5, 16, seed=1)[:rows], mask, pixel_coordinates(*SIZE, causal=True), 25.0)


TOKENS = normal(2, COUNT, 8, seed=2)
TIME = mx.array([[0.7]])


def test_one_product_for_queries_keys_and_values() -> None:
    separate, fused = model(fuse=False), model()
    names = {name for name, _ in tree_flatten(fused.transformer_blocks[0].parameters())}
    assert {"attn1.to_qkv.weight", "attn2.to_kv.bias", "attn2.to_q.weight"} <= names
    assert not names & {"attn1.to_q.weight", "attn1.to_v.bias", "attn2.to_k.weight"}
    outputs = [net(TOKENS, TIME, prepared(net, 2)) for net in (separate, fused)]
    assert relative_error(outputs[1], outputs[0]) < 1e-6


def test_layers_that_are_stored_differently_stay_apart() -> None:
    block = transformer_block.TransformerBlock(CONFIG)
    block.attn1.to_k.weight = block.attn1.to_k.weight.astype(mx.bfloat16)
    block.fuse()
    assert "to_q" in block.attn1
    assert "to_kv" in block.attn2


@pytest.mark.parametrize("mode", get_args(Perturbing))
@pytest.mark.parametrize("blocks", [(0,), (2,), (1, 3)])
@pytest.mark.parametrize("guided", [False, True])
def test_the_perturbed_sample_parts_at_the_first_perturbed_block(
    mode: Perturbing, blocks: tuple[int, ...], guided: bool
) -> None:
    """Its result is that of a batch that has it from the beginning."""
    rows = (0, 1, 1) if guided else (1, 1)
    conditioning = prepared(model(), 2).select(rows)
    tokens = mx.concatenate([TOKENS[:1]] * len(rows))
    perturbation = Perturbation(mode, blocks)
    apart = model()(tokens, TIME, conditioning, perturbation)
    shared = model()(tokens[1:], TIME, conditioning, perturbation)
    assert shared.shape == apart.shape
    assert relative_error(shared, apart) < 1e-6
    perturbs = not mx.allclose(apart[-1], apart[-2], rtol=1e-3)
    assert perturbs == (mode != "residual")


def test_each_sample_may_have_a_timestep_of_its_own_where_one_is_perturbed() -> None:
    conditioning = prepared(model(), 2).select((0, 1, 1))
    times, perturbation = mx.array([0.7, 0.3, 0.3]), Perturbation("attention_skip", (1,))
    tokens = mx.concatenate([TOKENS, TOKENS[1:]])
    apart = model()(tokens, times, conditioning, perturbation)
    assert relative_error(model()(TOKENS, times[:2], conditioning, perturbation), apart) < 1e-6


@pytest.mark.parametrize("values", [[0.7], [0.7, 0.1], [0.7, 0.0, 0.35]])
def test_distinct_timesteps_are_what_a_timestep_for_each_token_is(values: list[float]) -> None:
    places = np.arange(COUNT) % len(values)
    of_tokens = mx.array(np.array(values, np.float32)[places])[None]
    conditioning = prepared(model(), 2)
    long_way = model()(TOKENS, mx.repeat(of_tokens, 2, axis=0), conditioning)
    distinct = TokenTimesteps(mx.array(values), mx.array(places.astype(np.int32)))
    assert relative_error(model()(TOKENS, distinct, conditioning), long_way) < 1e-6
    if len(values) == 1:
        assert relative_error(model()(TOKENS, mx.array([0.7]), conditioning), long_way) < 1e-6


def test_rotary_tables_are_kept_from_render_to_render_of_a_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[float] = []
    real = transformer_module.rope_tables
    monkeypatch.setattr(
        transformer_module,
        "rope_tables",
        lambda *given: made.append(given[1]) or real(*given),  # type: ignore[func-returns-value]
    )
    transformer = Transformer(CONFIG)
    text, coordinates = normal(1, 5, 16), pixel_coordinates(*SIZE, causal=True)
    first, second = (transformer.prepare(text, None, coordinates, 25.0) for _ in range(2))
    assert first.rope is second.rope
    transformer.prepare(text, None, coordinates, 24.0)
    transformer.prepare(text, None, pixel_coordinates(*SIZE, causal=False), 24.0)
    assert made == [25.0, 24.0, 24.0]


needs_a_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="MLX compiles for a CPU with a C++ compiler")


@needs_a_compiler
@pytest.mark.parametrize("mode", [None, *get_args(Perturbing)])
def test_compiled_blocks_compute_the_same(monkeypatch: pytest.MonkeyPatch, mode: Perturbing | None) -> None:
    conditioning = prepared(model(), 2).select((0, 1, 1) if mode else (0, 1))
    perturbation = Perturbation(mode, (1,)) if mode else None
    plain = model()(TOKENS, TIME, conditioning, perturbation)
    monkeypatch.setattr(transformer_block, "backend", lambda: "a GPU")
    assert relative_error(model()(TOKENS, TIME, conditioning, perturbation), plain) < 1e-6


@needs_a_compiler
def test_compiled_pictures_are_the_same_and_hold_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = random_vae(POCKET, mx.float32)
    latents = normal(1, POCKET.latent_channels, 1, 2, 3)
    plain = vae.picture(latents, 0.05)
    monkeypatch.setattr(vae_model, "backend", lambda: "a GPU")
    np.testing.assert_allclose(vae.picture(latents, 0.05), plain, atol=1)
    decoder = weakref.ref(vae.decoder)
    gc.disable()
    try:
        del vae
        assert decoder() is None
    finally:
        gc.enable()
