"""Read the frames of a clip, as a player shows them, and no larger than a video needs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ltx_models.media.display import clip_filters, write_table
from ltx_models.media.ffmpeg import read_frames
from ltx_models.media.fit import Fit
from ltx_models.media.spans import Span
from ltx_models.media.streams import FIRST_VIDEO, Stream, demuxer_of, read_stream

__all__ = ["Clip", "open_clip", "read_clip"]

EVERY_FRAME = ("-fps_mode", "passthrough")
EARLIER = 0.0005
"""Seconds before a frame's time at which reading begins, so that no rounding leaves the frame out."""
LATER = 0.002
"""Seconds by which a video's frames are later than the clip's, so that a time between two frames always belongs to the
same one: Matroska's times are rounded to milliseconds.
"""


@dataclass(frozen=True)
class Clip:
    """A clip that can be read: MP4, MOV, WebM, Matroska or GIF."""

    path: Path
    stream: Stream

    def frames(self, most: int, fit: Fit | None = None) -> Iterator[np.ndarray]:
        """Yield the first frames, uint8 (H, W, 3) each, whatever their rate.

        Args:
            most: The largest number of frames.
            fit: The video that they are for: larger ones are cropped and scaled down while they are decoded. None keeps
                their size.

        Raises:
            MediaError: As in `read_frames`.
            VideoError: As in `read_frames`.
        """
        return self._frames([], clip_filters(self.stream, fit), most)

    def part(self, span: Span, fit: Fit | None = None) -> Iterator[np.ndarray]:
        """Yield the frames that are shown in a part of the clip at the rate of `span`; fewer where some are damaged.

        Args:
            span: The part.
            fit: As in `frames`.
        """
        shown = self.stream.shown_at(span.start - 0.5 / span.rate)
        begin = max(0.0, round(shown - EARLIER, 6))
        # A frame belongs to the nearest of the video's. The last is shown to the end, which may have been rounded up.
        rate = f"fps=fps={span.rate!r}:start_time={span.start + LATER - begin:.6f}:round=near"
        filters = clip_filters(self.stream, fit, f"{rate},tpad=stop=2:stop_mode=clone")
        return self._frames(["-ss", f"{begin:.6f}"] if begin else [], filters, span.count)

    def _frames(self, source: list[str], filters: str, most: int) -> Iterator[np.ndarray]:
        with tempfile.TemporaryDirectory(prefix="ltx-clip-") as folder:
            write_table(self.stream, Path(folder))
            decoder = ["-c:v", self.stream.decoder] if self.stream.decoder else []
            output = [*FIRST_VIDEO, "-vf", filters, *EVERY_FRAME]
            yield from read_frames(
                self.path, [*source, *decoder, "-f", demuxer_of(self.path)], output, most, folder=Path(folder)
            )


def open_clip(path: Path) -> Clip:
    """Return a clip whose frames ffmpeg has listed. Raise MediaError, and VideoError as `read_frames` does."""
    return Clip(path, read_stream(path))


def read_clip(path: Path, most: int, fit: Fit | None = None) -> Iterator[np.ndarray]:
    """Yield the first frames of a clip, as `Clip.frames` does."""
    yield from open_clip(path).frames(most, fit)
