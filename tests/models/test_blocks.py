"""What the goldens do not see: the epsilons of the norms, and padding and blocks that their configs don't use."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest

from ltx_models.embeddings import timestep_sinusoid
from ltx_models.transformer import Attention, TransformerConfig
from ltx_models.vae.blocks import (
    CausalConv3d,
    DepthToSpaceUpsample,
    PointwiseConv3d,
    ResnetBlock3D,
    pixel_norm,
    space_from_channels,
)
from ltx_models.vae.decoder import Decoder

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
