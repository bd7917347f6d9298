"""Test where pictures and clips go, computed by hand on a video of 5 latent frames of 1x2."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ltx_models.errors import InvalidRequest
from ltx_models.request import ConditioningItem
from ltx_models.sampling.conditioning import lerp, place
from ltx_models.transformers.ltxv import pixel_coordinates

FRAMES, CHANNELS, SIZE = 5, 3, (1, 2)
PER_FRAME = 2
LATENTS = np.random.default_rng(0).normal(size=(1, CHANNELS, FRAMES, *SIZE)).astype(np.float32)


def encoded(frames: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(1, CHANNELS, frames, *SIZE)).astype(np.float32)


def noise(index: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.full(shape, 10.0 * (index + 1), np.float32)


def image(**values: Any) -> ConditioningItem:
    return ConditioningItem(kind="image", source="a.png", **values)


def video(**values: Any) -> ConditioningItem:
    return ConditioningItem(kind="video", source="a.mp4", **values)


def tokens(latents: np.ndarray) -> np.ndarray:
    return latents.reshape(CHANNELS, -1).T


def test_without_items_the_canvas_is_the_noise() -> None:
    canvas = place(LATENTS, [], noise, causal=True)
    assert canvas.strengths is None
    assert canvas.extra == 0
    np.testing.assert_array_equal(np.array(canvas.tokens[0]), tokens(LATENTS))


@pytest.mark.parametrize("strength", [0.3, 0.8, 1.0])
def test_a_first_frame_is_mixed_into_the_latents(strength: float) -> None:
    picture, before = encoded(1), LATENTS.copy()
    canvas = place(LATENTS, [(image(strength=strength), picture)], noise, causal=True)
    expected = LATENTS.copy()
    expected[:, :, :1] = (1 - strength) * LATENTS[:, :, :1] + strength * picture
    np.testing.assert_allclose(np.array(canvas.tokens[0]), tokens(expected), rtol=1e-5, atol=1e-6)
    assert np.array(canvas.strengths)[0].tolist() == [np.float32(strength)] * 2 + [0] * 8
    assert canvas.extra == 0
    np.testing.assert_array_equal(LATENTS, before)


def test_full_strength_keeps_the_picture_exactly() -> None:
    picture = encoded(1)
    canvas = place(LATENTS, [(image(), picture)], noise, causal=True)
    np.testing.assert_array_equal(np.array(canvas.tokens[0, :PER_FRAME]), tokens(picture))
    assert lerp(np.array([1e8]), np.array([0.1]), 1.0).tolist() == [0.1]


def test_a_clip_at_the_beginning_is_extended() -> None:
    clip = encoded(3)
    canvas = place(LATENTS, [(video(), clip)], noise, causal=True)
    assert canvas.extra == 0
    np.testing.assert_array_equal(np.array(canvas.tokens[0, : 3 * PER_FRAME]), tokens(clip))
    np.testing.assert_array_equal(np.array(canvas.tokens[0, 3 * PER_FRAME :]), tokens(LATENTS[:, :, 3:]))
    assert np.array(canvas.strengths)[0].tolist() == [1] * 6 + [0] * 4


@pytest.mark.parametrize("causal", [False, True])
def test_a_later_picture_is_extra_tokens_at_its_frame(causal: bool) -> None:
    picture = encoded(1)
    canvas = place(LATENTS, [(image(frame=19, strength=0.8), picture)], noise, causal=causal)
    assert canvas.extra == PER_FRAME
    np.testing.assert_allclose(
        np.array(canvas.tokens[0, :PER_FRAME]), tokens(0.2 * 10 + 0.8 * picture), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(np.array(canvas.tokens[0, PER_FRAME:]), tokens(LATENTS))
    np.testing.assert_allclose(np.array(canvas.strengths)[0], [0.8] * 2 + [0] * 10)
    assert canvas.coordinates[0, :, :PER_FRAME].tolist() == [[19, 19], [0, 0], [0, 32]]
    np.testing.assert_array_equal(canvas.coordinates[:, :, PER_FRAME:], pixel_coordinates(FRAMES, *SIZE, causal=causal))


@pytest.mark.parametrize(("causal", "second"), [(False, 16 + 8), (True, 16 + 1)])
def test_a_later_clip_has_two_frames_beside_the_video_and_the_rest_in_it(causal: bool, second: int) -> None:
    """At frame 16 a clip of 17 frames is latents 2, 3 and 4: 2 and 3 stay free, and the third takes the place of 4."""
    clip = encoded(3)
    canvas = place(LATENTS, [(video(frame=16, strength=0.5), clip)], noise, causal=causal)
    assert canvas.extra == 2 * PER_FRAME
    expected = LATENTS.copy()
    expected[:, :, 4:] = (LATENTS[:, :, 4:] + clip[:, :, 2:]) / 2
    np.testing.assert_allclose(np.array(canvas.tokens[0, 4:]), tokens(expected), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.array(canvas.tokens[0, :4]), tokens(5 + clip[:, :, :2] / 2), rtol=1e-5, atol=1e-6)
    assert np.array(canvas.strengths)[0].tolist() == [0.5] * 4 + [0] * 8 + [0.5] * 2
    assert canvas.coordinates[0, 0, :4].tolist() == [16, 16, second, second]


def test_a_later_clip_of_two_latent_frames_is_only_beside_the_video() -> None:
    canvas = place(LATENTS, [(video(frame=8), encoded(2))], noise, causal=True)
    assert canvas.extra == 2 * PER_FRAME
    np.testing.assert_array_equal(np.array(canvas.tokens[0, 4:]), tokens(LATENTS))
    assert np.array(canvas.strengths)[0].tolist() == [1] * 4 + [0] * 10


def test_several_items_keep_their_order_and_draw_noise_of_their_own() -> None:
    first, second = encoded(1, 1), encoded(1, 2)
    items = [(image(frame=8, strength=0.5), first), (image(), encoded(1, 3)), (image(frame=32, strength=0.5), second)]
    canvas = place(LATENTS, items, noise, causal=True)
    assert canvas.extra == 2 * PER_FRAME
    np.testing.assert_allclose(np.array(canvas.tokens[0, :2]), tokens(5 + first / 2), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.array(canvas.tokens[0, 2:4]), tokens(10 + second / 2), rtol=1e-5, atol=1e-6)
    assert canvas.coordinates[0, 0, :6].tolist() == [8, 8, 32, 32, 0, 0]


@pytest.mark.parametrize(
    ("item", "shape"),
    [
        (image(), (1, CHANNELS, 1, 1, 3)),
        (image(), (1, CHANNELS + 1, 1, *SIZE)),
        (video(), (1, CHANNELS, FRAMES + 1, *SIZE)),
        (video(frame=16), (1, CHANNELS, 4, *SIZE)),
        (image(), (CHANNELS, 1, *SIZE)),
        (image(), (1, CHANNELS, 0, *SIZE)),
    ],
)
def test_latents_that_do_not_fit_are_refused(item: ConditioningItem, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidRequest, match="does not fit into"):
        place(LATENTS, [(item, np.zeros(shape, np.float32))], noise, causal=True)
