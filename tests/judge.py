"""Does a clip show what its caption says? Plain pixel arithmetic, no model.

The captions are those of the pocket model's vocabulary: a coloured shape that moves over a plain background. Each pixel
belongs to the shape if it is nearer to the shape's colour than to the background's. The colours are right if the shape
is there in every frame, does not fill the picture, and nearly every pixel is of one of the two colours; the motion is
right if the shape's centre of mass, or its area, changes as the caption says. Clips drawn by the script that made the
training data score 1.0 on both.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

COLOURS = {
    "red": (0.9, 0.1, 0.1),
    "green": (0.1, 0.75, 0.2),
    "blue": (0.1, 0.25, 0.9),
    "yellow": (0.95, 0.9, 0.1),
    "orange": (1, 0.55, 0.05),
    "purple": (0.55, 0.15, 0.75),
    "white": (0.97, 0.97, 0.97),
    "black": (0.04, 0.04, 0.04),
}
BACKGROUNDS = {
    "grey": (0.5, 0.5, 0.5),
    "black": (0.04, 0.04, 0.04),
    "white": (0.95, 0.95, 0.95),
    "navy": (0.05, 0.08, 0.3),
    "pink": (0.98, 0.75, 0.8),
    "brown": (0.4, 0.25, 0.1),
}
MOTIONS = {
    "left": r"moves left|to the left|slides left",
    "right": r"moves right|to the right|slides right",
    "bounce": r"bounces",
    "up": r"moves up|rises|floats up",
    "down": r"moves down|falls|drops",
    "grow": r"grows|gets bigger",
    "shrink": r"shrinks|gets smaller",
    "still": r"stays still|does not move",
}
"""Tried in this order: "bounces up and down" is no motion up."""


@dataclass(frozen=True)
class Verdict:
    """Whether the colours, and whether the motion, are those of the caption."""

    colour: bool
    motion: bool

    @property
    def right(self) -> bool:
        """Both are."""
        return self.colour and self.motion


def judge(frames: np.ndarray, caption: str) -> Verdict:
    """Judge uint8 frames (F, H, W, 3), at least 17 of them."""
    colour, background, motion = parse(caption)
    video = frames.astype(np.float32) / 255
    to_shape = _squared_distance(video, COLOURS[colour])
    to_ground = _squared_distance(video, BACKGROUNDS[background])
    mask = (to_shape < to_ground) & (to_shape < 0.15)
    return Verdict(colour=_is_there(mask, np.minimum(to_shape, to_ground)), motion=_moves(mask, motion))


def parse(caption: str) -> tuple[str, str, str]:
    """A caption's colour, background and motion."""
    text = caption.lower()
    colour = next(name for name in COLOURS if re.match(rf"(a )?{name}\b", text))
    background = next(name for name in BACKGROUNDS if re.search(rf"\b{name} background", text))
    motion = next(name for name, pattern in MOTIONS.items() if re.search(pattern, text))
    return colour, background, motion


def _squared_distance(video: np.ndarray, colour: tuple[float, float, float]) -> np.ndarray:
    return ((video - np.array(colour, np.float32)) ** 2).sum(-1)


def _is_there(mask: np.ndarray, to_nearest: np.ndarray) -> bool:
    _, height, width = mask.shape
    least = 60 * height * width / (128 * 128)
    in_every_frame = (mask.sum((1, 2)) > least).all()
    return bool(in_every_frame and mask.mean() < 0.5 and (to_nearest < 0.12).mean() > 0.93)


def _moves(mask: np.ndarray, motion: str) -> bool:
    """Distances are fractions of the picture's height and width."""
    _, height, width = mask.shape
    area = mask.sum((1, 2)).astype(np.float32)
    y = (mask * (np.arange(height) / height)[None, :, None]).sum((1, 2)) / np.maximum(area, 1)
    x = (mask * (np.arange(width) / width)[None, None, :]).sum((1, 2)) / np.maximum(area, 1)
    dx, dy = x[-1] - x[0], y[-1] - y[0]
    growth = area[-1] / max(area[0], 1)
    travel = y.max() - y.min()
    return bool(
        {
            "left": dx < -0.2,
            "right": dx > 0.2,
            "up": dy < -0.2,
            "down": dy > 0.2,
            "grow": growth > 1.8,
            "shrink": growth < 0.55,
            "bounce": travel > 0.2 and abs(dx) < 0.1,
            "still": abs(dx) < 0.06 and abs(dy) < 0.06 and 0.7 < growth < 1.4 and travel < 0.1,
        }[motion]
    )
