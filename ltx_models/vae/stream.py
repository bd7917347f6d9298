"""Keep what layers need of a video that passes through them in chunks of frames."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

__all__ = ["WHOLE", "Stream"]


class Stream:
    """The state of a layer, or of a group of layers, while a video passes through in chunks of frames.

    A layer that needs the frame after the one that it computes returns fewer frames than it takes for the first chunk,
    and more for the last; each chunk must be long enough for at least one frame of output.

    Attributes:
        first: Whether the current chunk begins the video.
        last: Whether the current chunk ends the video.
        kept: Frames that are kept for the next chunk, by layer and purpose.
    """

    def __init__(self) -> None:
        self.first = True
        self.last = False
        self.kept: dict[tuple[int, str], mx.array] = {}

    def edges(self, layer: nn.Module, before: int, after: int) -> tuple[mx.array | None, int, int]:
        """Return the context that a convolution needs in addition to a chunk.

        Returns:
            The video's own frames before the chunk, as `keep` was given them, or None at its beginning; how often the
            first frame is repeated before it; how often the last frame is repeated after it.
        """
        context = None if self.first else self.kept.pop((id(layer), "context"))
        return context, before if self.first else 0, after if self.last else 0

    def keep(self, layer: nn.Module, x: mx.array, frames: int) -> None:
        """Keep the last `frames` of a chunk with its edges, which the convolution needs before the next chunk."""
        if not self.last:
            self.kept[id(layer), "context"] = _copy(x[:, x.shape[1] - frames :])

    def behind(self, layer: nn.Module, x: mx.array, frames: int) -> mx.array | None:
        """Return the frames before `x` in the layer's input that its convolutions had not reached.

        Of those and `x`, the convolutions' output now covers the first `frames`; the others are kept.
        """
        before = None if self.first else self.kept.pop((id(layer), "delayed"))
        if not self.last:
            left = x.shape[1] + (0 if before is None else before.shape[1]) - frames
            whole = x if before is None or left <= x.shape[1] else mx.concatenate([before, x], axis=1)
            self.kept[id(layer), "delayed"] = _copy(whole[:, whole.shape[1] - left :])
        return before

    def delayed(self, layer: nn.Module, x: mx.array, frames: int) -> mx.array:
        """Return the next `frames` of the layer's input, at the pace of its convolutions."""
        before = self.behind(layer, x, frames)
        return (x if before is None else mx.concatenate([before, x], axis=1))[:, :frames]

    def gathered(self, layer: nn.Module, x: mx.array) -> mx.array:
        """Return all frames up to now, for a layer that returns none before it has the last."""
        if not self.first:
            x = mx.concatenate([self.kept.pop((id(layer), "gathered")), x], axis=1)
        if not self.last:
            self.kept[id(layer), "gathered"] = x
        return x


def _copy(x: mx.array) -> mx.array:
    """Return a copy: a slice would keep all of its array's memory alive."""
    return x + 0


class _WholeVideo(Stream):
    """A video that is a single chunk, so that nothing is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.last = True


WHOLE = _WholeVideo()
