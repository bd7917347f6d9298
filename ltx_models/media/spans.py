"""Decide which part of a clip is read, in plain Python, for clients too.

A clip at the video's beginning is continued from its end: about its last second becomes the video's first frames, and
the rest is rendered. A later clip is shown from its own beginning. `start` and `stop` of a `ConditioningItem` choose
another part.
"""

from __future__ import annotations

from dataclasses import dataclass

from ltx_models.errors import InvalidRequest
from ltx_models.request import FRAME_STRIDE, ConditioningItem, GenerationRequest

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


def span_of(item: ConditioningItem, request: GenerationRequest, length: float, name: str) -> Span:
    """Return the part of a clip that is read for a resolved request.

    Args:
        item: The clip as the request has it.
        request: The resolved request.
        length: The clip's length in seconds.
        name: The name that errors use.

    Raises:
        InvalidRequest: The chosen part is not in the clip, or leaves nothing to render.
    """
    assert request.num_frames and request.frame_rate
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
        return Span(start, _whole(min(available, room)), rate)
    if item.stop is not None:
        count = _whole(available)
        _check_room(item, count, request, name)
        return Span(max(0.0, stop - count / rate), count, rate)
    count = min(_whole(available), continued_frames(request.num_frames))
    return Span(start if item.start is not None else max(0.0, length - count / rate), count, rate)


def continued_frames(num_frames: int) -> int:
    """Return the number of a clip's frames that a video of `num_frames` frames continues from."""
    return _whole(max(1, min(CONTINUED_FRAMES, num_frames - FRAME_STRIDE)))


def seconds(value: float, *, unit: bool = True) -> str:
    """Return a time in a clip, for people: `3.96 s`, `75.50 s`."""
    return f"{value:.2f}{' s' if unit else ''}"


def _whole(count: int) -> int:
    """Return the largest number of frames, 8n+1, at most `count`, that the model takes as a clip."""
    return (count - 1) // FRAME_STRIDE * FRAME_STRIDE + 1


def _check_room(item: ConditioningItem, count: int, request: GenerationRequest, name: str) -> None:
    assert request.num_frames and request.frame_rate
    room = request.num_frames if item.strength < 1 else request.num_frames - FRAME_STRIDE
    if count > room:
        raise InvalidRequest(
            f"{_chosen(item)} of {name} is {count} frames of a video that has {request.num_frames}, and leaves none to"
            f" render; choose at most {seconds(room / request.frame_rate)} of it, or a longer video"
        )


def _chosen(item: ConditioningItem) -> str:
    if item.stop is None:
        return f"second {item.start or 0:.2f}"
    return f"the part {item.start or 0:.2f}–{seconds(item.stop)}"
