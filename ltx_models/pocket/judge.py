"""Judge whether a clip shows what its caption says, by pixel arithmetic in NumPy, without a model.

A pixel belongs to the shape if it is nearer to the shape's colour than to the background's. Of the shape's pixels the
judge computes, in each frame, the centre of mass, the area and the orientation, and from those what moved, grew or
turned. The shape is found by comparing the pixels with each of the four shapes of the same area, centre and
orientation.

Clips that `ltx_models.pocket.clips` draws are right in all respects; a clip of one caption judged by another is right
about as often as the words of the two agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ltx_models.pocket.clips import AREAS, RADII, shape_distance
from ltx_models.pocket.grammar import BACKGROUNDS, COLOURS, SHAPES, Combination, parse

__all__ = ["Verdict", "judge", "judge_combination"]

NEAR = 0.15
"""The squared distance in RGB within which a pixel may be the shape's."""
LEAST_AREA, MOST_AREA = 0.0022, 0.5
"""Bounds of the shape's area: in any frame, relative to the square of the shorter side; on average, to the picture."""
SYMMETRY = {"circle": 0, "square": 4, "triangle": 3, "diamond": 2}
"""How many times in a turn a shape looks the same; 0 for always."""
UPRIGHT = {"square": -1, "triangle": 1j, "diamond": -1}
"""The direction of an upright shape's moment of that order: the power of its corners, as x + iy."""
FRAMES_LOOKED_AT = 9
"""The number of a clip's frames from which the shape is found."""
TURNED = np.radians(100)


@dataclass(frozen=True)
class Verdict:
    """Which parts of the caption the clip shows; `colour` is of the shape and of the background."""

    colour: bool
    shape: bool
    size: bool
    motion: bool

    @property
    def right(self) -> bool:
        """Whether everything is as the caption says."""
        return self.colour and self.shape and self.size and self.motion


@dataclass(frozen=True)
class Seen:
    """A shape as it was found, frame by frame.

    Attributes:
        x: Its centre of mass, in units of the picture's width, (F,).
        y: Its centre of mass, in units of the picture's height, (F,).
        area: Its area, in units of the square of the shorter side, (F,).
        turned: The angle clockwise that it turned by in all, in radians.
        near: Its centre in units of the shorter side, (F, 2).
    """

    x: np.ndarray
    y: np.ndarray
    near: np.ndarray
    area: np.ndarray
    turned: float

    @property
    def travel_x(self) -> float:
        """The distance in x from the first frame to the last."""
        return float(self.x[-1] - self.x[0])

    @property
    def travel_y(self) -> float:
        """The distance in y from the first frame to the last."""
        return float(self.y[-1] - self.y[0])

    @property
    def growth(self) -> float:
        """The last area over the first."""
        return float(self.area[-1] / max(self.area[0], 1e-9))

    @property
    def range(self) -> float:
        """The largest distance between two of its places, across or down."""
        return float(max(np.ptp(self.x), np.ptp(self.y)))

    @property
    def keeps_its_size(self) -> bool:
        """Whether it is about as large in the end as in the beginning."""
        return 0.6 < self.growth < 1.65

    @property
    def stays(self) -> bool:
        """Whether it is never far from where it was."""
        return self.range < 0.1


def judge(frames: np.ndarray, caption: str) -> Verdict:
    """Judge uint8 frames (F, H, W, 3), at least 9 of them. Raise ValueError where the caption is unknown."""
    combination = parse(caption)
    if combination is None:
        raise ValueError(f"the caption {caption!r} is invalid: the pocket model does not know all of it")
    return judge_combination(frames, combination)


def judge_combination(frames: np.ndarray, said: Combination) -> Verdict:
    """Judge frames, as `judge` does, by the combination that a caption names."""
    video = frames.astype(np.float32) / 255
    to_shape = _squared_distance(video, COLOURS[said.colour])
    to_ground = _squared_distance(video, BACKGROUNDS[said.background])
    mask = (to_shape < to_ground) & (to_shape < NEAR)
    if not mask.any(axis=(1, 2)).all():
        return Verdict(False, False, False, False)
    seen = _look(mask, said.shape)
    radius = float(np.mean(np.sqrt(seen.area / AREAS[said.shape])))
    shape = _shape(mask, turns=said.motion == "spin")
    return Verdict(
        colour=_is_there(mask, seen.area, np.minimum(to_shape, to_ground)),
        shape=shape == said.shape,
        size=_size(radius) == said.size,
        motion=bool(MOTION_RULES[said.motion](seen)),
    )


def _squared_distance(video: np.ndarray, colour: tuple[float, float, float]) -> np.ndarray:
    return ((video - np.array(colour, np.float32)) ** 2).sum(-1)


def _is_there(mask: np.ndarray, area: np.ndarray, to_nearest: np.ndarray) -> bool:
    return bool((area > LEAST_AREA).all() and mask.mean() < MOST_AREA and (to_nearest < 0.12).mean() > 0.93)


def _size(radius: float) -> str:
    """Return the size whose radii are nearest, by ratio."""
    middles = {size: np.sqrt(low * high) for size, (low, high) in RADII.items()}
    return min(middles, key=lambda size: abs(np.log(max(radius, 1e-6) / middles[size])))


def _look(mask: np.ndarray, shape: str) -> Seen:
    _, height, width = mask.shape
    shorter = min(height, width)
    area = mask.sum((1, 2)).astype(np.float64)
    columns, rows = np.arange(width) + 0.5, np.arange(height) + 0.5
    x, y = mask.sum(1) @ columns / area, mask.sum(2) @ rows / area
    turned = np.unwrap(_orientations(mask, shape), period=2 * np.pi / max(SYMMETRY[shape], 1))
    return Seen(
        x=x / width,
        y=y / height,
        near=np.stack([x, y], -1) / shorter,
        area=area / shorter**2,
        turned=float(turned[-1] - turned[0]) if SYMMETRY[shape] else 0.0,
    )


def _orientations(mask: np.ndarray, shape: str) -> np.ndarray:
    """Return the angle clockwise of each frame's shape, up to its symmetry.

    That of a shape of n-fold symmetry is the argument of its n-th complex moment, relative to the upright one's, over
    n.
    """
    order = SYMMETRY[shape]
    if not order:
        return np.zeros(len(mask))
    return np.array([np.angle(_moment(frame, order) / UPRIGHT[shape]) / order for frame in mask])


def _moment(frame: np.ndarray, order: int) -> complex:
    rows, columns = np.nonzero(frame)
    points = columns - columns.mean() + 1j * (rows - rows.mean())
    return complex((points**order).mean())


def _shape(mask: np.ndarray, *, turns: bool) -> str:
    """Return the shape that covers the mask best, over some of the frames; upright, unless it turns."""
    chosen = np.unique(np.linspace(0, len(mask) - 1, FRAMES_LOOKED_AT).round().astype(int))
    scores = {name: np.mean([_overlap(mask[index], name, turns=turns) for index in chosen]) for name in SHAPES}
    return max(scores, key=lambda name: scores[name])


def _overlap(frame: np.ndarray, shape: str, *, turns: bool) -> float:
    """Return the intersection over union of a mask and a shape of its centre, area and, if it turns, orientation."""
    rows, columns = np.nonzero(frame)
    radius = np.sqrt(len(rows) / AREAS[shape])
    angle = float(_orientations(frame[None], shape)[0]) if turns else 0.0
    y = np.arange(frame.shape[0])[:, None] - rows.mean()
    x = np.arange(frame.shape[1])[None] - columns.mean()
    ideal = shape_distance(np.array(list(SHAPES).index(shape)), x, y, radius, np.array(angle)) < 0
    return float((ideal & frame).sum() / max((ideal | frame).sum(), 1))


def _bounces(seen: Seen) -> bool:
    """Return whether a shape goes up twice, and down between: low at both ends and in the middle, high halfway."""
    height = (seen.y.max() - seen.y) / max(np.ptp(seen.y), 1e-6)
    first, second = np.array_split(height, 2)
    middle = height[len(height) * 3 // 8 : len(height) * 5 // 8 + 1]
    ends = max(height[0], height[-1])
    return bool(np.ptp(seen.y) > 0.15 and min(first.max(), second.max()) > 0.75 and middle.min() < 0.3 and ends < 0.3)


def _goes_round(seen: Seen) -> bool:
    """Return whether a shape goes once around a point, clockwise, at about the same distance."""
    from_middle = seen.near - seen.near[:-1].mean(0)
    distance = np.hypot(*from_middle.T)
    angles = np.unwrap(np.arctan2(from_middle[:, 1], from_middle[:, 0]))
    return bool(
        distance.min() > 0.06 and distance.max() < 2 * distance.min() and np.radians(280) < angles[-1] - angles[0] < 8
    )


MOTION_RULES: Mapping[str, Callable[[Seen], bool]] = {
    "left": lambda seen: seen.travel_x < -0.2 and abs(seen.travel_y) < 0.1 and seen.keeps_its_size,
    "right": lambda seen: seen.travel_x > 0.2 and abs(seen.travel_y) < 0.1 and seen.keeps_its_size,
    "up": lambda seen: seen.travel_y < -0.2 and abs(seen.travel_x) < 0.1 and seen.keeps_its_size,
    "down": lambda seen: seen.travel_y > 0.2 and abs(seen.travel_x) < 0.1 and seen.keeps_its_size,
    "grow": lambda seen: seen.growth > 1.8 and seen.stays,
    "shrink": lambda seen: seen.growth < 0.55 and seen.stays,
    "still": lambda seen: seen.stays and seen.keeps_its_size and abs(seen.turned) < np.radians(40),
    "bounce": lambda seen: abs(seen.travel_x) < 0.1 and seen.keeps_its_size and _bounces(seen),
    "spin": lambda seen: seen.stays and seen.keeps_its_size and seen.turned > TURNED,
    "orbit": lambda seen: seen.keeps_its_size and _goes_round(seen),
}
