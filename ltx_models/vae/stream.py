"""What layers remember of a video that goes through them in chunks of frames."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

__all__ = ["WHOLE", "Stream"]


class Stream:
    """A video's way through a layer in chunks of frames: what the layer must remember from one chunk to the next.

    first, last: whether the chunk at hand begins or ends the video. A layer that sees the frame after the one that it
    computes gives fewer frames than it takes of the first chunk, and more of the last; it must be given enough to give
    at least one.
    """

    def __init__(self) -> None:
        self.first = True
        self.last = False
        self.kept: dict[tuple[int, str], mx.array] = {}

    def edges(self, layer: nn.Module, before: int, after: int) -> tuple[mx.array | None, int, int]:
        """What a convolution sees besides a chunk: the video's own frames before it, as `keep` was given them, and how
        often the first and the last frame are repeated, at the video's ends."""
        context = None if self.first else self.kept.pop((id(layer), "context"))
        return context, before if self.first else 0, after if self.last else 0

    def keep(self, layer: nn.Module, x: mx.array, frames: int) -> None:
        """Of a chunk with its edges, what the convolution will see before the next one."""
        if not self.last:
            self.kept[id(layer), "context"] = _copy(x[:, x.shape[1] - frames :])

    def behind(self, layer: nn.Module, x: mx.array, frames: int) -> mx.array | None:
        """The frames that belong before `x` in the layer's input, of which its convolutions give the first `frames`:
        those that they were behind by. Keeps the ones that are left."""
        before = None if self.first else self.kept.pop((id(layer), "delayed"))
        if not self.last:
            left = x.shape[1] + (0 if before is None else before.shape[1]) - frames
            whole = x if before is None or left <= x.shape[1] else mx.concatenate([before, x], axis=1)
            self.kept[id(layer), "delayed"] = _copy(whole[:, whole.shape[1] - left :])
        return before

    def delayed(self, layer: nn.Module, x: mx.array, frames: int) -> mx.array:
        """The next `frames` of the layer's input."""
        before = self.behind(layer, x, frames)
        return (x if before is None else mx.concatenate([before, x], axis=1))[:, :frames]

    def gathered(self, layer: nn.Module, x: mx.array) -> mx.array:
        """All frames up to now, for a layer that gives none before it has seen the last."""
        if not self.first:
            x = mx.concatenate([self.kept.pop((id(layer), "gathered")), x], axis=1)
        if not self.last:
            self.kept[id(layer), "gathered"] = x
        return x


def _copy(x: mx.array) -> mx.array:
    """A slice would keep all of its array's memory alive."""
    return x + 0


class _WholeVideo(Stream):
    """A video that is a single chunk: nothing to remember."""

    def __init__(self) -> None:
        super().__init__()
        self.last = True


WHOLE = _WholeVideo()
