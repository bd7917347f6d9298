"""Decide which part of a clip is read, in plain Python, for clients too.

A clip at the video's beginning is continued from its end: about its last second becomes the video's first frames, and
the rest is rendered. A later clip is shown from its own beginning. `start` and `stop` of a `ConditioningItem` choose
another part.
"""

from __future__ import annotations

from dataclasses import dataclass

from ltx_models.errors import InvalidRequest
from ltx_models.families.family import Limits
from ltx_models.families.variants import known_families
from ltx_models.request import ConditioningItem, GenerationRequest

__all__ = ["CONTINUED_FRAMES", "Span", "continued_frames", "seconds", "span_of"]

CONTINUED_FRAMES = 25
"""The number of a clip's frames that a video continues from by default; at least the last 8 frames are rendered."""
ROUNDING = 0.05
"""The fraction of a frame by which a clip's times, which some files round to milliseconds, may be short of it."""
TOLERANCE = 0.1
"""Seconds by which a chosen part may end after the clip: people give times that a player shows, which are rounded."""


@dataclass(frozen=True)
class Span:
    """A part of a clip.

    Attributes:
        start: The second of the clip at which reading begins.
        count: The number of frames that are read.
        rate: Frames a second.
    """

    start: float
    count: int
    rate: float

    @property
    def stop(self) -> float:
        """The second at which the last frame ends."""
        return self.start + self.count / self.rate

    def __str__(self) -> str:
        return f"{seconds(self.start, unit=False)}–{seconds(self.stop)}"


def span_of(
    item: ConditioningItem, request: GenerationRequest, length: float, name: str, limits: Limits | None = None
) -> Span:
    """Return the part of a clip that is read for a resolved request.

    Args:
        item: The clip as the request has it.
        request: The resolved request.
        length: The clip's length in seconds.
        name: The name that errors use.
        limits: The limits of the request's family; None for the first family's.

    Raises:
        InvalidRequest: The chosen part is not in the clip, or leaves nothing to render.
    """
    assert request.num_frames and request.frame_rate
    limits = limits or next(known_families()).limits
    rate, room = request.frame_rate, request.num_frames - item.frame
    start, stop = item.start or 0.0, length if item.stop is None else min(item.stop, length)
    if start >= length or (item.stop is not None and item.stop > length + TOLERANCE):
        raise InvalidRequest(
            f"{name} has {seconds(length)}, and {_chosen(item)} was asked for; choose a part between 0 and"
            f" {seconds(length)}"
        )
    available = int((stop - start) * rate + ROUNDING)
    if available < 1 and item.stop is None:
        available = 1  # it is shorter than a frame, and shown all the same
    if available < 1:
        raise InvalidRequest(f"{_chosen(item)} of {name} is shorter than a frame at {rate:g} frames a second")
    if item.frame > 0:
        return Span(start, limits.frames_at_most(min(available, room)), rate)
    if item.stop is not None:
        count = limits.frames_at_most(available)
        _check_room(item, count, request, name, limits)
        return Span(max(0.0, stop - count / rate), count, rate)
    count = min(limits.frames_at_most(available), continued_frames(request.num_frames, limits))
    return Span(start if item.start is not None else max(0.0, length - count / rate), count, rate)


def continued_frames(num_frames: int, limits: Limits) -> int:
    """Return the number of a clip's frames that a video of `num_frames` frames continues from."""
    return limits.frames_at_most(max(1, min(CONTINUED_FRAMES, num_frames - limits.frame_stride)))


def seconds(value: float, *, unit: bool = True) -> str:
    """Return a time in a clip, for people: `3.96 s`, `75.50 s`."""
    return f"{value:.2f}{' s' if unit else ''}"


def _check_room(item: ConditioningItem, count: int, request: GenerationRequest, name: str, limits: Limits) -> None:
    assert request.num_frames and request.frame_rate
    room = request.num_frames if item.strength < 1 else request.num_frames - limits.frame_stride
    if count > room:
        raise InvalidRequest(
            f"{_chosen(item)} of {name} is {count} frames of a video that has {request.num_frames}, and leaves none to"
            f" render; choose at most {seconds(room / request.frame_rate)} of it, or a longer video"
        )


def _chosen(item: ConditioningItem) -> str:
    if item.stop is None:
        return f"second {item.start or 0:.2f}"
    return f"the part {item.start or 0:.2f}–{seconds(item.stop)}"
