"""Drawing what a caption says: clips of one shape that moves, with edges smoothed over one pixel.

Written against an array namespace, which is NumPy or PyTorch: the tests draw with the one, training draws thousands of
clips a second with the other. What is random about a clip is drawn by NumPy, and so is the same on every device.

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
"""What "radius" is drawn from: a disc's, or that of a shape of about its area; while it grows or shrinks, the mean."""
GROWTH = (0.65, 1.35)
"""The radius at the beginning and the end of growing, as a part of the mean."""

HALF_SIDE = 0.886
TRIANGLE = 1.5
DIAMOND = (1.05, 1.45)
"""Of shapes of radius 1: half a side; from the centre to a corner; the same across and upwards. A diamond is taller
than wide: as a square on its corner it would be one that spun."""
AREAS = {
    "circle": math.pi,
    "square": 4 * HALF_SIDE**2,
    "triangle": 0.75 * math.sqrt(3) * TRIANGLE**2,
    "diamond": 2 * DIAMOND[0] * DIAMOND[1],
}
"""Of shapes of radius 1."""
REACH = 1.5
"""How far any shape of radius 1 goes from its centre."""

TRAVEL = 0.27
"""How far a shape moves to either side, as a part of the picture; less where it would leave it."""
BOUNCES, BOUNCE_HEIGHT = 2, 0.34
ORBIT = 0.22
TURN = math.pi
"""What a shape that spins turns by, clockwise: half a turn shows the same at every length, and never aliases."""
DRIFT = 0.04
"""How far the middle of a movement is from the picture's, as a part of the picture, at most."""

CALM: tuple[RGB, RGB] = (0.37, 0.41, 0.48), (0.22, 0.25, 0.33)
"""The top and the bottom of an empty picture: what is shown of a text that names nothing known."""

Array = Any


class Scenes(NamedTuple):
    """What clips show, B of them: arrays of a namespace.

    colour, top, bottom: RGB (B, 3) of the shape, and of the background's first and last row.  shape, motion: indices of
    SHAPES and MOTIONS, (B,).  radius: (B,), negative for none.  place: (B, 2) in [-1, 1], across and down, of the room
    that there is.
    """

    colour: Array
    top: Array
    bottom: Array
    shape: Array
    motion: Array
    radius: Array
    place: Array

    def map(self, convert: Callable[[np.ndarray], Array]) -> Scenes:
        """Every array, converted: to a device's tensors."""
        return Scenes(*map(convert, self))


class Trajectory(NamedTuple):
    """Where a shape is at each frame: centre, radius, and its angle clockwise, (B, F)."""

    x: Array
    y: Array
    radius: Array
    angle: Array


def sample_scenes(wanted: Sequence[Combination | None], rng: np.random.Generator) -> Scenes:
    """A scene of each combination, its size and place drawn at random; of None, an empty picture. NumPy, float32."""
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
    """Clips (B, 3, F, H, W) of RGB in [0, 1]. xp: the namespace of the scenes' arrays, numpy or torch."""
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
    """One clip (3, F, H, W) of `draw`, as NumPy → uint8 (F, H, W, 3)."""
    return np.round(np.moveaxis(np.clip(clip, 0, 1), 0, -1) * 255).astype(np.uint8)


def shape_distance(shape: Array, x: Array, y: Array, radius: Array, angle: Array, xp: ModuleType = np) -> Array:
    """How far points lie outside of a shape's edge, negative inside; exact up to the edge, and near it but at corners.

    shape: indices of SHAPES.  x, y: from its centre.  angle: clockwise. All are broadcast.
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
    """How each shape moves through a picture of that size."""
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
    room_x = xp.clip(wide / 2 - REACH * largest - 0.01, 0, None)
    room_y = xp.clip(tall / 2 - REACH * largest - 0.01, 0, None)

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
    """0, 1, … as floats, on the scenes' device."""
    device = {} if xp is np else {"device": scenes.radius.device}
    return xp.arange(count, dtype=xp.float32, **device)
