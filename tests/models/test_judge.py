"""The judge on clips that are drawn here: it must see what is there, and what is not."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.judge import BACKGROUNDS, COLOURS, judge, parse
from tests.models.conftest import DATA


def clip(colour: str, background: str, xs: np.ndarray, ys: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """A disc at (x, y) with a radius, fractions of a picture of 64x64, one of each a frame."""
    rows, columns = np.mgrid[:64, :64] / 64
    frames = [
        np.where(
            ((columns - x) ** 2 + (rows - y) ** 2 < radius**2)[..., None], COLOURS[colour], BACKGROUNDS[background]
        )
        for x, y, radius in zip(xs, ys, radii, strict=True)
    ]
    return np.round(np.stack(frames) * 255).astype(np.uint8)


STILL = np.full(25, 0.5)
ACROSS = np.linspace(0.2, 0.8, 25)
BOUNCING = 0.5 + 0.25 * np.cos(np.linspace(0, 4 * np.pi, 25))
SMALL, GROWING = np.full(25, 0.15), np.linspace(0.1, 0.3, 25)

MOVES = {
    "left": ("moves left", (ACROSS[::-1], STILL, SMALL)),
    "right": ("rolls to the right", (ACROSS, STILL, SMALL)),
    "up": ("floats up", (STILL, ACROSS[::-1], SMALL)),
    "down": ("falls", (STILL, ACROSS, SMALL)),
    "grow": ("gets bigger", (STILL, STILL, GROWING)),
    "shrink": ("shrinks", (STILL, STILL, GROWING[::-1])),
    "still": ("stays still", (STILL, STILL, SMALL)),
    "bounce": ("bounces up and down", (STILL, BOUNCING, SMALL)),
}


@pytest.mark.parametrize("motion", MOVES)
def test_only_the_right_motion_is_right(motion: str) -> None:
    frames = clip("red", "navy", *MOVES[motion][1])
    seen = [
        name for name, (words, _) in MOVES.items() if judge(frames, f"a red ball {words} on a navy background").right
    ]
    # The judge's "bounce" is any travel up or down that is not sideways.
    assert set(seen) == {motion, "bounce"} if motion in ("up", "down") else {motion}


def test_only_the_right_colours_are_right() -> None:
    frames = clip("red", "navy", *MOVES["still"][1])
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


def test_every_caption_can_be_parsed() -> None:
    captions = json.loads((DATA / "pocket" / "prompts.json").read_text())
    assert len(captions) == 24
    assert parse(captions[6]) == ("green", "navy", "bounce")
    assert {parse(caption)[2] for caption in captions} == set(MOVES)
