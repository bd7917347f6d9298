"""What of a picture or a frame a video has use for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ltx_models.request import MAX_SIZE

__all__ = ["Fit"]

Box = tuple[int, int, int, int]
"""Left, top, right and bottom, as Pillow has it."""


@dataclass(frozen=True)
class Fit:
    """width, height: of the video.  crop: whether the rest of another aspect ratio is cut off, or all is stretched."""

    width: int
    height: int
    crop: bool

    @property
    def turned(self) -> Fit:
        """For a picture that is stored lying on its side."""
        return Fit(self.height, self.width, self.crop)

    @property
    def largest(self) -> tuple[int, int]:
        """Columns and rows of which the video still has use, twice its own: the model's resizing reads between the two
        nearest pixels, and would leave out some of more. More than the largest video has are too many in any case.
        """
        return min(2 * self.width, MAX_SIZE), min(2 * self.height, MAX_SIZE)

    def box(self, width: int, height: int) -> Box:
        """Return the part that is used of a picture of that size: with `crop` the middle, as large as possible."""
        if not self.crop:
            return 0, 0, width, height
        aspect = self.width / self.height
        if width / height > aspect:
            used = max(1, int(height * aspect))
            left = (width - used) // 2
            return left, 0, left + used, height
        used = max(1, int(width / aspect))
        top = (height - used) // 2
        return 0, top, width, top + used

    def cut(self, frame: np.ndarray) -> np.ndarray:
        """Return the part that is used of a frame (H, W, C)."""
        left, top, right, bottom = self.box(frame.shape[1], frame.shape[0])
        return frame[top:bottom, left:right]

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return what the part that is used, of that size, is scaled down to; it is never scaled up."""
        columns, rows = self.largest
        return min(width, columns), min(height, rows)

    @property
    def filters(self) -> str:
        """For ffmpeg: the same, of frames of any size and with pixels of any shape, which become square. Those that are
        small enough it leaves whole, since it would cut subsampled colours a pixel away from the rest.
        """
        columns, rows = self.largest
        shown_width, shown_height = "iw*max(1,sar)", "ih*max(1,1/sar)"
        width, height = "iw", "ih"
        if self.crop:
            aspect = f"{self.width / self.height!r}/sar"
            width, height = f"max(1,min(iw,floor(ih*{aspect})))", f"max(1,min(ih,floor(iw/({aspect}))))"
        large = f"gt({shown_width},{columns})+gt({shown_height},{rows})"
        return (
            f"crop=w='if({large},{width},iw)':h='if({large},{height},ih)':x='floor((iw-ow)/2)':y='floor((ih-oh)/2)':exact=1,"
            f"scale=w='min({shown_width},{columns})':h='min({shown_height},{rows})':flags=bilinear,setsar=1"
        )
