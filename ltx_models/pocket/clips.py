"""Draw what a caption says: clips of one shape that moves, with edges smoothed over one pixel.

The code is written for an array namespace, NumPy or PyTorch: the tests draw with the one, training draws thousands of
clips a second with the other. Random numbers of a clip are drawn by NumPy, and so are the same on every device.

Lengths are in units of the picture's shorter side, from its centre, x to the right and y down. Time runs from 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ltx_models.pocket.grammar import BACKGROUNDS, COLOURS, MOTIONS, RGB, SHAPES, Combination

__all__ = [
    "AREAS",
    "RADII",
    "Scenes",
    "Trajectory",
    "draw",
    "sample_scenes",
    "shape_distance",
    "to_frames",
    "trajectory",
]

RADII = {"small": (0.085, 0.1), "": (0.13, 0.15), "big": (0.195, 0.22)}
"""The range from which a radius is drawn: a disc's, or that of a shape of about its area; of a growing or shrinking
shape, the mean.
"""
GROWTH = (0.65, 1.35)
"""The radius at the beginning and the end of growing, relative to the mean."""

HALF_SIDE = 0.886
TRIANGLE = 1.5
DIAMOND = (1.05, 1.45)
"""Of shapes of radius 1: half a square's side; a triangle's distance from centre to corner; a diamond's across and
upwards. A diamond is taller than wide: as a square on its corner it would be a square that spun.
"""
AREAS = {
    "circle": math.pi,
    "square": 4 * HALF_SIDE**2,
    "triangle": 0.75 * math.sqrt(3) * TRIANGLE**2,
    "diamond": 2 * DIAMOND[0] * DIAMOND[1],
}
"""The areas of shapes of radius 1."""
LARGEST_EXTENT = 1.5
"""The largest distance of a point of any shape of radius 1 from its centre."""

TRAVEL = 0.27
"""How far a shape moves to either side, relative to the picture; less where it would leave it."""
BOUNCES, BOUNCE_HEIGHT = 2, 0.34
ORBIT = 0.22
TURN = math.pi
"""The angle that a spinning shape turns by, clockwise: half a turn looks the same at every length, and never aliases.
"""
DRIFT = 0.04
"""The largest distance of the middle of a movement from the picture's centre, relative to the picture."""

CALM: tuple[RGB, RGB] = (0.37, 0.41, 0.48), (0.22, 0.25, 0.33)
"""The top and bottom colours of an empty picture, which is drawn for a text that names nothing known."""

Array = Any


class Scenes(NamedTuple):
    """The contents of B clips, as arrays of a namespace.

    Attributes:
        colour: RGB of the shape, (B, 3).
        top: RGB of the background's first row, (B, 3).
        bottom: RGB of its last row, (B, 3).
        shape: Indices of SHAPES, (B,).
        motion: Indices of MOTIONS, (B,).
        radius: (B,), negative for no shape.
        place: (B, 2) in [-1, 1], across and down, relative to the room that there is.
    """

    colour: Array
    top: Array
    bottom: Array
    shape: Array
    motion: Array
    radius: Array
    place: Array

    def map(self, convert: Callable[[np.ndarray], Array]) -> Scenes:
        """Return the scenes with every array converted, such as to a device's tensors."""
        return Scenes(*map(convert, self))


class Trajectory(NamedTuple):
    """The state of a shape at each frame: centre, radius, and its angle clockwise, (B, F)."""

    x: Array
    y: Array
    radius: Array
    angle: Array


def sample_scenes(wanted: Sequence[Combination | None], rng: np.random.Generator) -> Scenes:
    """Return a scene of each combination, with random size and place, and an empty one for None. NumPy, float32."""
    sizes = np.array([(-1.0, -1.0) if what is None else RADII[what.size] for what in wanted])
    count = len(wanted)
    radius = sizes[:, 0] + (sizes[:, 1] - sizes[:, 0]) * rng.random(count)
    grounds = [CALM if what is None else (BACKGROUNDS[what.background],) * 2 for what in wanted]
    return Scenes(
        colour=np.array([(0, 0, 0) if what is None else COLOURS[what.colour] for what in wanted], np.float32),
        top=np.array([top for top, _ in grounds], np.float32),
        bottom=np.array([bottom for _, bottom in grounds], np.float32),
        shape=np.array([0 if what is None else list(SHAPES).index(what.shape) for what in wanted]),
        motion=np.array([0 if what is None else list(MOTIONS).index(what.motion) for what in wanted]),
        radius=radius.astype(np.float32),
        place=rng.uniform(-1, 1, (count, 2)).astype(np.float32),
    )


def draw(scenes: Scenes, num_frames: int, height: int, width: int, xp: ModuleType = np) -> Array:
    """Return clips (B, 3, F, H, W) of RGB in [0, 1]; `xp` is the namespace of the scenes' arrays, numpy or torch."""
    shorter = min(height, width)
    path = trajectory(scenes, num_frames, height, width, xp)
    x = ((_steps(scenes, width, xp) + 0.5 - width / 2) / shorter)[None, None, None, :]
    y = ((_steps(scenes, height, xp) + 0.5 - height / 2) / shorter)[None, None, :, None]
    centred = (x - path.x[:, :, None, None], y - path.y[:, :, None, None])
    distance = shape_distance(
        scenes.shape[:, None, None, None], *centred, path.radius[:, :, None, None], path.angle[:, :, None, None], xp
    )
    covered = xp.clip(0.5 - distance * shorter, 0, 1)[:, None]
    down = _steps(scenes, height, xp)[None, None, :] / (height - 1)
    ground = (scenes.top[:, :, None] * (1 - down) + scenes.bottom[:, :, None] * down)[:, :, None, :, None]
    return ground + (scenes.colour[:, :, None, None, None] - ground) * covered


def to_frames(clip: Array) -> np.ndarray:
    """Return a clip (3, F, H, W) of `draw`, in NumPy, as uint8 (F, H, W, 3)."""
    return np.round(np.moveaxis(np.clip(clip, 0, 1), 0, -1) * 255).astype(np.uint8)


def shape_distance(shape: Array, x: Array, y: Array, radius: Array, angle: Array, xp: ModuleType = np) -> Array:
    """Return how far points are outside of a shape's edge, negative inside; approximate outside of corners.

    Args:
        shape: Indices of SHAPES; all arguments are broadcast.
        x: Distances from the centre to the right.
        y: Distances from the centre down.
        radius: The radius.
        angle: The angle, clockwise.
        xp: The namespace of the arrays.
    """
    cos, sin = xp.cos(angle), xp.sin(angle)
    across, down = abs(x * cos + y * sin), y * cos - x * sin
    circle = xp.sqrt(x * x + y * y) - radius
    square = xp.maximum(across, abs(down)) - HALF_SIDE * radius
    inner = TRIANGLE / 2 * radius
    triangle = xp.maximum(down, math.sqrt(3) / 2 * across - down / 2) - inner
    wide, tall = DIAMOND
    slope = math.hypot(wide, tall)
    diamond = (across * tall + abs(down) * wide) / slope - wide * tall / slope * radius
    return xp.where(shape == 0, circle, xp.where(shape == 1, square, xp.where(shape == 2, triangle, diamond)))


def trajectory(scenes: Scenes, num_frames: int, height: int, width: int, xp: ModuleType = np) -> Trajectory:
    """Return how each shape moves through a picture of that size."""
    time = (_steps(scenes, num_frames, xp) / max(num_frames - 1, 1))[None]
    motion = scenes.motion[:, None]
    mean_radius = scenes.radius[:, None]
    size_over_time = GROWTH[0] + (GROWTH[1] - GROWTH[0]) * time

    def moving(name: str, value: Array, otherwise: Array) -> Array:
        return xp.where(motion == list(MOTIONS).index(name), value, otherwise)

    radius = mean_radius * moving("grow", size_over_time, moving("shrink", 2 - size_over_time, 1 + 0 * time))
    largest = mean_radius * moving("grow", GROWTH[1], moving("shrink", GROWTH[1], 1 + 0 * time))
    across, down = scenes.place[:, :1] + 0 * time, scenes.place[:, 1:] + 0 * time
    wide, tall = width / min(height, width), height / min(height, width)
    room_x = xp.clip(wide / 2 - LARGEST_EXTENT * largest - 0.01, 0, None)
    room_y = xp.clip(tall / 2 - LARGEST_EXTENT * largest - 0.01, 0, None)

    travel_x, travel_y = xp.clip(room_x, None, TRAVEL * wide), xp.clip(room_y, None, TRAVEL * tall)
    drift_x = across * xp.clip(room_x - travel_x, None, DRIFT * wide)
    drift_y = down * xp.clip(room_y - travel_y, None, DRIFT * tall)
    to_right, to_bottom = drift_x + travel_x * (2 * time - 1), drift_y + travel_y * (2 * time - 1)
    bounced = xp.clip(2 * travel_y, None, BOUNCE_HEIGHT * tall) * abs(xp.sin(BOUNCES * math.pi * time))
    orbit = xp.clip(xp.minimum(room_x, room_y), None, ORBIT)
    round_x = across * xp.clip(room_x - orbit, None, 0.1) + orbit * xp.sin(2 * math.pi * time)
    round_y = down * xp.clip(room_y - orbit, None, 0.1) - orbit * xp.cos(2 * math.pi * time)

    x = moving("left", 2 * drift_x - to_right, moving("right", to_right, moving("orbit", round_x, across * room_x)))
    y = moving("up", 2 * drift_y - to_bottom, moving("down", to_bottom, moving("orbit", round_y, down * room_y)))
    y = moving("bounce", drift_y + travel_y - bounced, y)
    angle = moving("spin", TURN * time, 0 * time)
    return Trajectory(x + 0 * time, y + 0 * time, radius, angle + 0 * mean_radius)


def _steps(scenes: Scenes, count: int, xp: ModuleType) -> Array:
    """Return 0, 1, … as floats, on the scenes' device."""
    device = {} if xp is np else {"device": scenes.radius.device}
    return xp.arange(count, dtype=xp.float32, **device)
