"""Test the judge on drawn clips: it must see what is there, and what is not."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import numpy as np
import pytest

from ltx_models.pocket.clips import draw, sample_scenes, to_frames
from ltx_models.pocket.grammar import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, SIZES, Combination, combinations, parse
from ltx_models.pocket.judge import judge, judge_combination
from ltx_models.pocket.scores import ASPECTS
from tests.models.conftest import DATA

SMALL = (17, 64, 64)
MORE_SIZES = [(9, 64, 64), (25, 128, 128), (25, 96, 160), (33, 160, 96)]


def drawn(wanted: list[Combination], size: tuple[int, int, int]) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    for start in range(0, len(wanted), 20):
        for clip in draw(sample_scenes(wanted[start : start + 20], rng), *size):
            yield to_frames(clip)


def some(count: int, seed: int) -> list[Combination]:
    return random.Random(seed).sample(combinations(), count)


@pytest.mark.parametrize(
    "size", [SMALL, *(pytest.param(size, marks=pytest.mark.lane("models")) for size in MORE_SIZES)]
)
def test_what_is_drawn_is_right(size: tuple[int, int, int]) -> None:
    wanted = some(500 if size == SMALL else 100, seed=1)
    verdicts = [judge_combination(frames, said) for frames, said in zip(drawn(wanted, size), wanted, strict=True)]
    for aspect in ASPECTS:
        assert np.mean([getattr(verdict, aspect) for verdict in verdicts]) >= 0.99, aspect


@pytest.mark.lane("models")
def test_shuffled_captions_are_right_by_chance_only() -> None:
    """All words agree hardly ever, and each no more often than two captions have it in common."""
    wanted = some(500, seed=2)
    said = random.Random(3).sample(wanted, len(wanted))
    verdicts = [judge_combination(frames, other) for frames, other in zip(drawn(wanted, SMALL), said, strict=True)]
    assert np.mean([verdict.right for verdict in verdicts]) < 0.01
    for aspect in ("shape", "size", "motion"):
        chance = np.mean([getattr(a, aspect) == getattr(b, aspect) for a, b in zip(wanted, said, strict=True)])
        assert np.mean([getattr(verdict, aspect) for verdict in verdicts]) <= chance + 0.02, aspect
    same = np.mean([a[::4] == b[::4] for a, b in zip(wanted, said, strict=True)])
    assert np.mean([verdict.colour for verdict in verdicts]) < same + 0.04


CHANGES = {"shape": SHAPES, "size": SIZES, "motion": MOTIONS}


@pytest.mark.lane("models")
@pytest.mark.parametrize("aspect", CHANGES)
def test_one_wrong_word_is_seen(aspect: str) -> None:
    """Everything else is as the caption says, so only that word can be found wrong."""
    changed, missed = random.Random(4), []
    wanted = some(200, seed=5)
    for frames, truth in zip(drawn(wanted, SMALL), wanted, strict=True):
        others = [name for name in CHANGES[aspect] if name != getattr(truth, aspect)]
        said = truth._replace(**{aspect: changed.choice(others)})
        verdict = judge_combination(frames, said)
        assert verdict.colour
        if getattr(verdict, aspect):
            missed.append((truth, said))
    assert len(missed) <= 2, missed


def test_only_the_right_colours_are_right() -> None:
    truth = Combination("red", "circle", "", "still", "navy")
    (frames,) = drawn([truth], SMALL)
    verdicts = {
        (colour, ground): judge(frames, f"{colour} ball that stays still against a {ground} background").colour
        for colour in COLOURS
        for ground in BACKGROUNDS
    }
    assert verdicts[("red", "navy")]
    assert not any(right for (colour, _), right in verdicts.items() if colour in ("green", "yellow", "white"))
    assert not any(right for (_, ground), right in verdicts.items() if ground in ("white", "pink", "grey"))


def test_noise_and_an_empty_picture_are_wrong() -> None:
    caption = "a red ball stays still on a navy background"
    noise = np.random.default_rng(0).integers(0, 256, (25, 64, 64, 3), np.uint8)
    assert not judge(noise, caption).colour
    assert not judge(np.zeros((25, 64, 64, 3), np.uint8), caption).colour


def test_a_bounce_that_does_not_reach_the_floor_is_none() -> None:
    """In the middle of a bounce, a model that blurs it rises too early."""
    (frames,) = drawn([Combination("red", "circle", "", "bounce", "navy")], (25, 64, 64))
    assert judge(frames, "a red ball bounces on a navy background").motion
    frames[9:16] = frames[8]
    assert not judge(frames, "a red ball bounces on a navy background").motion


def test_a_turn_the_other_way_is_none() -> None:
    (frames,) = drawn([Combination("red", "square", "", "spin", "navy")], SMALL)
    assert judge(frames, "a red square spins on a navy background").motion
    assert not judge(frames[::-1], "a red square spins on a navy background").motion


def test_another_text_is_refused() -> None:
    with pytest.raises(ValueError, match="a red cat"):
        judge(np.zeros((25, 64, 64, 3), np.uint8), "a red cat sleeps")


def test_every_caption_of_the_tests_can_be_parsed() -> None:
    captions = json.loads((DATA / "pocket" / "prompts.json").read_text())
    assert len(captions) == 24
    assert parse(captions[6]) == Combination("green", "triangle", "small", "spin", "white")
