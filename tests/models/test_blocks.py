"""Test what the goldens do not cover: the epsilons of the norms, and unused padding and blocks."""

from __future__ import annotations

import math
from typing import Any
from unittest import mock

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from ltx_models.errors import CheckpointError
from ltx_models.layers.timestep import timestep_sinusoid
from ltx_models.transformers.block import Attention
from ltx_models.transformers.config import TransformerConfig
from ltx_models.vae.blocks import (
    PADDINGS,
    CausalConv3d,
    DepthToSpaceUpsample,
    PointwiseConv3d,
    ResnetBlock3D,
    SpaceToDepthDownsample,
    VideoAttention,
    channels_from_space,
    convolved_by_products,
    pixel_norm,
    space_from_channels,
)
from ltx_models.vae.decoder import Decoder
from ltx_models.vae.encoder import Encoder, patchify
from ltx_models.vae.noise import InjectedNoise
from ltx_models.vae.tiling import decode_streamed
from tests.models.conftest import relative_error

CONFIG = TransformerConfig(
    num_attention_heads=2, attention_head_dim=12, num_layers=1, in_channels=4, out_channels=4, caption_channels=4
)


def normal(*shape: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(0))


def test_pixel_norm_epsilon() -> None:
    """At a mean square of 1e-8 an epsilon of 1e-8 halves it."""
    assert pixel_norm(mx.full((1, 4), 1e-4))[0, 0].item() == pytest.approx(1 / math.sqrt(2), rel=1e-5)


def test_query_and_key_norm_epsilon() -> None:
    attention = Attention(CONFIG)
    small = mx.full((1, 24), math.sqrt(1e-5))
    for norm in (attention.q_norm, attention.k_norm):
        assert norm(small)[0, 0].item() == pytest.approx(1 / math.sqrt(2), rel=1e-5)


def test_shortcut_norm_epsilon() -> None:
    block = ResnetBlock3D(2, 4, causal=False, timestep_conditioning=False)
    small = mx.array([[1e-3, -1e-3]])  # a variance of 1e-6
    assert block.norm3["norm"](small)[0, 0].item() == pytest.approx(1 / math.sqrt(2), rel=1e-5)


@pytest.mark.parametrize(("causal", "edges"), [(True, (2, 0)), (False, (1, 1))])
def test_edge_frames_are_repeated(causal: bool, edges: tuple[int, int]) -> None:
    conv = CausalConv3d(3, 5, causal=causal)
    x = normal(1, 4, 6, 5, 3)
    padded = np.pad(np.array(x), ((0, 0), edges, (0, 0), (0, 0), (0, 0)), mode="edge")
    padded = np.pad(padded, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
    expected = mx.conv3d(mx.array(padded), conv.conv.weight) + conv.conv.bias
    assert conv(x).shape == (1, 4, 6, 5, 5)
    assert mx.allclose(conv(x), expected, atol=1e-5)


@pytest.mark.parametrize(("padding", "mode"), [("zeros", "constant"), ("replicate", "edge"), ("reflect", "reflect")])
@pytest.mark.parametrize("causal", [False, True])
def test_padding_of_rows_and_columns(padding: str, mode: Any, causal: bool) -> None:
    conv = CausalConv3d(3, 5, causal=causal, padding=padding)
    x = normal(1, 3, 6, 5, 3)
    padded = np.pad(np.array(x), ((0, 0), (2, 0) if causal else (1, 1), (0, 0), (0, 0), (0, 0)), mode="edge")
    padded = np.pad(padded, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), mode=mode)
    assert mx.allclose(conv(x), mx.conv3d(mx.array(padded), conv.conv.weight) + conv.conv.bias, atol=1e-5)


def test_a_single_row_has_nothing_to_reflect() -> None:
    conv = CausalConv3d(3, 5, causal=True, padding="reflect")
    replicated = CausalConv3d(3, 5, causal=True, padding="replicate")
    replicated.conv = conv.conv
    x = normal(1, 2, 1, 1, 3)
    assert mx.allclose(conv(x), replicated(x), atol=1e-6)


@pytest.mark.parametrize("stride", [(2, 1, 1), (1, 2, 2), (2, 2, 2)])
@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_a_stride_computes_every_second_position(stride: tuple[int, int, int], padding: str) -> None:
    strided = CausalConv3d(3, 5, causal=True, stride=stride, padding=padding)
    whole = CausalConv3d(3, 5, causal=True, padding=padding)
    whole.conv.weight, whole.conv.bias = strided.conv.weight, strided.conv.bias
    x = normal(1, 9, 6, 4, 3)
    t, y, c = stride
    assert mx.allclose(strided(x), whole(x)[:, ::t, ::y, ::c], atol=1e-5)


def test_a_causal_convolution_does_not_see_the_future() -> None:
    conv = CausalConv3d(3, 3, causal=True)
    x = normal(1, 5, 4, 4, 3)
    changed = mx.concatenate([x[:, :3], x[:, 3:] + 1], axis=1)
    assert mx.array_equal(conv(x)[:, :3], conv(changed)[:, :3])
    assert not mx.array_equal(conv(x)[:, 3:], conv(changed)[:, 3:])


def test_a_pointwise_convolution_is_a_convolution() -> None:
    conv = PointwiseConv3d(3, 5)
    conv.weight, conv.bias = normal(5, 1, 1, 1, 3), normal(5)
    x = normal(1, 2, 4, 4, 3)
    assert mx.allclose(conv(x), mx.conv3d(x, conv.weight) + conv.bias, atol=1e-6)


def test_depth_to_space_orders_channels_then_time_then_rows_then_columns() -> None:
    x = mx.arange(16).reshape(1, 1, 1, 1, 16)  # 2 channels of 2x2x2
    spread = space_from_channels(x, (2, 2, 2))
    assert spread.shape == (1, 2, 2, 2, 2)
    assert spread[0, ..., 0].tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
    assert spread[0, ..., 1].tolist() == [[[8, 9], [10, 11]], [[12, 13], [14, 15]]]


def test_space_to_depth_is_the_inverse() -> None:
    x = normal(2, 4, 6, 8, 3)
    for stride in ((2, 1, 1), (1, 2, 2), (2, 2, 2)):
        assert mx.array_equal(space_from_channels(channels_from_space(x, stride), stride), x)


def test_patches_have_columns_before_rows() -> None:
    x = mx.arange(16).reshape(1, 1, 4, 4, 1)
    assert patchify(x, 4).flatten().tolist() == [4 * row + column for column in range(4) for row in range(4)]


@pytest.mark.parametrize("stride", [(2, 1, 1), (1, 2, 2), (2, 2, 2)])
@pytest.mark.parametrize("multiplier", [1, 2])
def test_downsampling(stride: tuple[int, int, int], multiplier: int) -> None:
    """With a convolution of zeros it is the skip: for each output channel, the mean of its group of folded ones."""
    block = SpaceToDepthDownsample(8, stride, multiplier=multiplier)
    block.conv.conv.weight = mx.zeros_like(block.conv.conv.weight)
    block.conv.conv.bias = mx.zeros_like(block.conv.conv.bias)
    x = np.array(normal(1, 5, 4, 6, 8))
    doubled = np.concatenate([x[:, :1], x], axis=1) if stride[0] == 2 else x
    t, y, c = stride
    folded = np.stack(  # channel-major, then time, rows, columns
        [
            doubled[:, i::t, j::y, k::c, channel]
            for channel in range(8)
            for i in range(t)
            for j in range(y)
            for k in range(c)
        ],
        axis=-1,
    )
    group = 8 * math.prod(stride) // (8 * multiplier)
    expected = np.stack([folded[..., at : at + group].mean(-1) for at in range(0, folded.shape[-1], group)], axis=-1)
    np.testing.assert_allclose(np.array(block(mx.array(x))), expected, atol=1e-6)


def test_downsampling_adds_the_folded_convolution() -> None:
    block = SpaceToDepthDownsample(4, (2, 2, 2), multiplier=2)
    x = normal(1, 3, 4, 4, 4)
    doubled = mx.concatenate([x[:, :1], x], axis=1)
    skip = channels_from_space(doubled, (2, 2, 2)).reshape(1, 2, 2, 2, 8, 4).mean(-1)
    assert mx.allclose(block(x) - skip, channels_from_space(block.conv(doubled), (2, 2, 2)), atol=1e-5)


ENCODER_BLOCKS = [
    ("res_x", 1),
    ("compress_space_res", {"multiplier": 2}),
    ("compress_time", 1),
    ("res_x_y", {"multiplier": 3}),
    ("compress_all_x_y", {"multiplier": 2}),
    ("res_x", {"num_layers": 2}),
    ("compress_all_res", {}),
]


@pytest.mark.parametrize(("log_variance", "extra"), [("uniform", 1), ("constant", 1), ("none", 0), ("per_channel", 5)])
def test_an_encoder_of_every_kind_of_block(log_variance: str, extra: int) -> None:
    encoder = Encoder(
        ENCODER_BLOCKS, latent_channels=5, base_channels=8, patch_size=4, log_variance=log_variance, padding="reflect"
    )
    assert encoder.conv_out.conv.weight.shape[0] == 5 + extra
    assert encoder(normal(1, 17, 32, 64, 3)).shape == (1, 3, 1, 2, 5)


def test_a_picture_is_encoded_as_a_videos_first_frame() -> None:
    encoder = Encoder(ENCODER_BLOCKS, latent_channels=5, base_channels=8, patch_size=4, log_variance="uniform")
    video = normal(1, 17, 32, 64, 3)
    assert mx.allclose(encoder(video)[:, :1], encoder(video[:, :1]), atol=1e-5)


def test_an_unknown_block_of_the_encoder_is_refused() -> None:
    with pytest.raises(CheckpointError, match="'attn_res_x'; the encoder knows res_x"):
        Encoder([("attn_res_x", 1)], latent_channels=5, base_channels=8, patch_size=4, log_variance="uniform")


def silent(block: ResnetBlock3D) -> ResnetBlock3D:
    """Return the block with its convolutions at zero, so that only the noise is added to the input."""
    for conv in (block.conv1.conv, block.conv2.conv):
        conv.weight, conv.bias = mx.zeros_like(conv.weight), mx.zeros_like(conv.bias)
    return block


def test_injected_noise_is_the_same_for_all_frames_and_scaled_by_channel() -> None:
    block = silent(ResnetBlock3D(3, 3, causal=False, timestep_conditioning=False, inject_noise=True))
    block.per_channel_scale2 = mx.array([1.0, 0.0, -2.0]).reshape(3, 1, 1)
    noise = InjectedNoise(7, 4, 5).of_block(2)
    x = normal(2, 3, 4, 5, 3)
    added = block(x, noise=noise) - x
    expected = noise(1, 4)[None, None, :, :, None] * mx.array([1.0, 0.0, -2.0])
    assert mx.allclose(added, mx.broadcast_to(expected, x.shape), atol=1e-5)
    assert mx.array_equal(block(x), x)


def test_noise_is_injected_after_the_first_convolution_too() -> None:
    block = silent(ResnetBlock3D(3, 3, causal=True, timestep_conditioning=False, inject_noise=True))
    block.per_channel_scale1 = mx.array([1.0, 0.5, -2.0]).reshape(3, 1, 1)
    block.conv2.conv.weight[:, 2, 1, 1] = mx.eye(3)  # the middle of the frame itself
    noise = InjectedNoise(7, 4, 5).of_block(0)
    x = normal(1, 1, 4, 5, 3)
    injected = np.array(noise(0, 4))[..., None] * [1.0, 0.5, -2.0]
    normed = injected / np.sqrt((injected**2).mean(-1, keepdims=True) + 1e-8)
    np.testing.assert_allclose(np.array(block(x, noise=noise) - x)[0, 0], normed / (1 + np.exp(-normed)), atol=1e-5)


def test_every_injection_draws_its_own_noise_and_a_tile_its_part_of_it() -> None:
    whole = InjectedNoise(7, 6, 8)
    assert mx.array_equal(whole.of_block(1)(0, 12), InjectedNoise(7, 6, 8).of_block(1)(0, 12))
    draws = [whole.of_block(block)(convolution, 12) for block in (0, 1) for convolution in (0, 1)]
    draws.append(InjectedNoise(8, 6, 8).of_block(0)(0, 12))
    assert len({draw.flatten()[0].item() for draw in draws}) == 5
    assert mx.array_equal(whole.within(1, 4, 2, 8).of_block(1)(1, 6), draws[3][2:8, 4:16])


def parameters(model: nn.Module) -> dict[str, mx.array]:
    flat: Any = tree_flatten(model.parameters())  # type: ignore[no-untyped-call]
    return dict(flat)


def noisy_decoder(**options: Any) -> Decoder:
    blocks = [("res_x", {"num_layers": 2, "inject_noise": True}), ("compress_all", {"residual": True, "multiplier": 2})]
    values = {"latent_channels": 3, "base_channels": 4, "patch_size": 2, "causal": False, **options}
    decoder = Decoder(values.pop("blocks", blocks), timestep_conditioning=False, **values)
    names = [name for name in parameters(decoder) if "per_channel_scale" in name]
    decoder.load_weights([(name, normal(4, 1, 1)) for name in names], strict=False)
    return decoder


@pytest.mark.parametrize("options", [{}, {"causal": True, "padding": "reflect"}])
def test_a_streamed_decode_injects_the_same_noise(options: dict[str, Any]) -> None:
    decoder, latents = noisy_decoder(**options), normal(1, 6, 3, 4, 3)
    noise = InjectedNoise(7, 3, 4)
    whole = decoder(latents, None, noise)
    assert not mx.allclose(whole, decoder(latents, None), atol=1e-2)
    streamed = mx.concatenate(list(decode_streamed(decoder, latents, None, 1, noise)), axis=1)
    assert mx.allclose(streamed, whole, atol=1e-5)


def test_attention_of_all_positions() -> None:
    attention = VideoAttention(6, head_dim=3)
    x = normal(1, 2, 2, 3, 6)
    tokens = np.array(x).reshape(12, 6)

    def project(layer: nn.Linear, norm: bool) -> np.ndarray:
        y = tokens @ np.array(layer.weight).T + np.array(layer.bias)
        if norm:
            y /= np.sqrt((y**2).mean(-1, keepdims=True) + 1e-5)
        heads: np.ndarray = y.reshape(12, 2, 3)
        return heads

    q, k, v = project(attention.to_q, True), project(attention.to_k, True), project(attention.to_v, False)
    scores = np.exp(np.einsum("ihd,jhd->hij", q, k) / math.sqrt(3))
    out = np.einsum("hij,jhd->ihd", scores / scores.sum(-1, keepdims=True), v).reshape(12, 6)
    out = out @ np.array(attention.to_out[0].weight).T + np.array(attention.to_out[0].bias)
    np.testing.assert_allclose(np.array(attention(x)).reshape(12, 6), tokens + out, atol=1e-5)


def test_a_decoder_with_attention_and_its_names() -> None:
    blocks = [("res_x", 1), ("compress_all", 1), ("attn_res_x", {"num_layers": 2, "attention_head_dim": 2})]
    decoder = noisy_decoder(blocks=blocks)
    names = parameters(decoder).keys()
    assert {"up_blocks.0.attention_blocks.1.to_out.0.bias", "up_blocks.0.res_blocks.1.conv2.conv.weight"} <= names
    assert "up_blocks.0.attention_blocks.0.q_norm.weight" in names
    latents = normal(1, 4, 2, 3, 3)
    streamed = mx.concatenate(list(decode_streamed(decoder, latents, None, 1)), axis=1)
    assert mx.allclose(streamed, decoder(latents, None), atol=1e-5)


@pytest.mark.parametrize(
    ("stride", "shape"), [((2, 1, 1), (1, 5, 4, 4)), ((1, 2, 2), (1, 3, 8, 8)), ((2, 2, 2), (1, 5, 8, 8))]
)
@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("residual", [False, True])
def test_upsampling(
    stride: tuple[int, int, int], shape: tuple[int, int, int, int], multiplier: int, residual: bool
) -> None:
    """Time grows to 1 + 2n, the channels shrink by the multiplier; the residual is the input, its channels tiled."""
    block = DepthToSpaceUpsample(8, stride, multiplier=multiplier, residual=residual, causal=False)
    block.conv.conv.weight = mx.zeros_like(block.conv.conv.weight)
    block.conv.conv.bias = mx.zeros_like(block.conv.conv.bias)
    x = normal(1, 3, 4, 4, 8)
    up = block(x)
    assert up.shape == (*shape, 8 // multiplier)
    if not residual:
        assert not mx.any(up).item()
        return
    spread = space_from_channels(x, stride)[:, stride[0] - 1 :]
    count = spread.shape[-1]
    for start in range(0, up.shape[-1], count):
        assert mx.array_equal(up[..., start : start + count], spread)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("timestep_conditioning", [False, True])
def test_a_decoder_of_every_kind_of_block(causal: bool, timestep_conditioning: bool) -> None:
    decoder = Decoder(
        [
            ("res_x", 1),
            ("compress_space", {"residual": True, "multiplier": 2}),
            ("res_x_y", {"multiplier": 3}),
            ("compress_time", 1),
            ("compress_all", {"multiplier": 2}),
        ],
        latent_channels=3,
        base_channels=2,
        patch_size=4,
        causal=causal,
        timestep_conditioning=timestep_conditioning,
    )
    assert decoder.conv_in.conv.weight.shape[0] == 2 * 2 * 3 * 2
    pixels = decoder(normal(2, 2, 2, 3, 3), mx.array([0.05, 0.5]))
    assert pixels.shape == (2, 5, 2 * 16, 3 * 16, 3)


def test_a_timestep_of_zero_is_all_cosines() -> None:
    assert timestep_sinusoid(mx.array([0.0]))[0].tolist() == [1.0] * 128 + [0.0] * 128


def test_the_sinusoid() -> None:
    slow = [math.cos(700 * 10_000 ** (-i / 128)) for i in range(128)]
    np.testing.assert_allclose(timestep_sinusoid(mx.array([700.0]))[0, :128], slow, atol=2e-4)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("causal", [True, False])
def test_a_convolution_by_products_is_the_convolution(
    causal: bool, padding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU uses the one, a GPU the other."""
    convolution = CausalConv3d(5, 7, causal=causal, padding=padding)
    x = mx.random.normal((2, 4, 6, 5, 5), key=mx.random.key(0))
    with mock.patch("ltx_models.vae.blocks.convolved_by_products", wraps=convolved_by_products) as by_itself:
        by_products = convolution(x)
        monkeypatch.setattr(mx, "default_device", lambda: mx.gpu)
        mx.eval(convolution(x))
    assert by_itself.call_count == 1
    assert by_products.shape == (2, 4, 6, 5, 7)
    assert relative_error(np.array(by_products), np.array(convolution(x))) < 1e-6
