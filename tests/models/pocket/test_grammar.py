"""Test the pocket model's captions, and the clips that belong to them."""

from __future__ import annotations

import random

import numpy as np
import pytest

from ltx_models.pocket.clips import CALM, draw, sample_scenes, trajectory
from ltx_models.pocket.grammar import (
    HELD_OUT,
    SHAPES,
    Combination,
    caption,
    combinations,
    other_caption,
    parse,
    split,
    unknown_words,
)
from ltx_models.text_encoders.tokenizer import Tokenizer
from tests.models.conftest import DATA

SPIECE = DATA.parent.parent / "ltx_models" / "pocket" / "tokenizer" / "spiece.model"


def test_every_combination_has_captions_that_say_it() -> None:
    rng = random.Random(0)
    for combination in combinations():
        text = caption(combination, rng)
        assert parse(text) == combination, text
        assert parse(text.upper()) == combination
        assert unknown_words(text) == []


def test_a_disc_is_never_seen_to_spin() -> None:
    pairs = {(what.shape, what.motion) for what in combinations()}
    assert ("circle", "spin") not in pairs
    assert ("square", "spin") in pairs


def test_what_is_held_out_is_fixed_and_never_trained_on() -> None:
    trained, held_out = split()
    assert len(held_out) == HELD_OUT >= 128
    assert set(trained) | set(held_out) == set(combinations())
    assert not set(trained) & set(held_out)
    assert held_out[0] == Combination("green", "square", "big", "left", "navy")


def test_each_word_is_trained_on_with_each_other_word() -> None:
    """Two words that were only ever held out together could not be learned together."""
    trained, held_out = split()
    for first in range(5):
        for second in range(first):
            known = {(what[first], what[second]) for what in trained}
            assert {(what[first], what[second]) for what in held_out} <= known


@pytest.mark.parametrize(
    "text", ["", "a red cat sleeps", "a red ball", "a red ball moves left", "a grey ball rises on a pink background"]
)
def test_what_is_no_whole_caption_says_nothing(text: str) -> None:
    assert parse(text) is None


def test_other_texts_say_nothing_known() -> None:
    rng = random.Random(0)
    texts = [other_caption(rng) for _ in range(500)]
    assert not any(parse(text) for text in texts)
    assert all(unknown_words(text) for text in texts)
    shapes = {word for synonyms in SHAPES.values() for word in synonyms}
    assert not any(shapes & set(text.replace("in a circle", "").split()) for text in texts)


def test_unknown_words_are_named_once_in_order() -> None:
    text = "The cat's red ball runs, runs but bounces at 24fps on a navy background"
    assert unknown_words(text) == ["cat's", "runs", "but", "at", "24fps"]


def test_captions_fit_the_length_that_training_gives_them() -> None:
    tokenizer, rng = Tokenizer(SPIECE), random.Random(0)
    assert max(len(tokenizer.encode(caption(what, rng))) for what in combinations()) <= 32


@pytest.mark.parametrize("size", [(9, 64, 64), (25, 96, 160), (49, 160, 96)])
def test_shapes_never_leave_the_picture(size: tuple[int, int, int]) -> None:
    wanted = combinations()
    path = trajectory(sample_scenes(wanted, np.random.default_rng(0)), *size)
    shorter = min(size[1:])
    assert path.x.shape == path.radius.shape == (len(wanted), size[0])
    assert (abs(path.x) + 1.5 * path.radius <= size[2] / shorter / 2 + 1e-5).all()
    assert (abs(path.y) + 1.5 * path.radius <= size[1] / shorter / 2 + 1e-5).all()


def test_edges_are_one_pixel_wide() -> None:
    """Along any row a shape begins within two pixels, whatever the size."""
    still = Combination("white", "square", "big", "still", "black")
    for side in (64, 128, 256):
        clip = draw(sample_scenes([still], np.random.default_rng(0)), 1, side, side)[0, 0, 0]
        middle = clip[int(np.argmax(clip.sum(1)))]
        assert ((middle > 0.1) & (middle < 0.9)).sum() <= 4
        assert (middle > 0.9).sum() > side / 4


def test_of_none_it_draws_a_still_and_even_picture() -> None:
    clip = draw(sample_scenes([None], np.random.default_rng(0)), 9, 64, 64)[0]
    assert (clip == clip[:, :1]).all()
    np.testing.assert_allclose(clip[:, 0, 0, 0], CALM[0], atol=1e-6)
    np.testing.assert_allclose(clip[:, 0, -1, 0], CALM[1], atol=1e-6)
    assert np.ptp(clip, axis=-1).max() == 0


@pytest.mark.lane("machine")
def test_torch_draws_the_same() -> None:
    torch = pytest.importorskip("torch")
    scenes = sample_scenes([None, *combinations()[::200]], np.random.default_rng(0))
    theirs = draw(scenes.map(torch.from_numpy), 9, 64, 96, torch).numpy()
    np.testing.assert_allclose(draw(scenes, 9, 64, 96), theirs, atol=2e-4)
