"""Compute which part of a picture or a frame a video needs, and at which size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ltx_models.families.variants import known_families

__all__ = ["Fit"]

Box = tuple[int, int, int, int]
"""Left, top, right and bottom, as in Pillow."""


@dataclass(frozen=True)
class Fit:
    """The size and crop of a video, for which a picture or a frame is read.

    Attributes:
        width: Columns of the video.
        height: Rows of the video.
        crop: Cut off the rest of another aspect ratio; otherwise all of it is stretched.
    """

    width: int
    height: int
    crop: bool

    @property
    def turned(self) -> Fit:
        """Return the fit for a picture that is stored turned by 90 degrees."""
        return Fit(self.height, self.width, self.crop)

    @property
    def largest(self) -> tuple[int, int]:
        """Return the largest useful number of columns and rows: twice the video's.

        No more than the largest video has is useful. The model's resizing interpolates between the two nearest pixels,
        and would skip some of more.
        """
        most = next(known_families()).limits.max_size
        return min(2 * self.width, most), min(2 * self.height, most)

    def box(self, width: int, height: int) -> Box:
        """Return the part of a picture of that size that is used: with `crop` the middle, as large as possible."""
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
        """Return the part of a frame (H, W, C) that is used."""
        left, top, right, bottom = self.box(frame.shape[1], frame.shape[0])
        return frame[top:bottom, left:right]

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return the size to which a used part of that size is scaled down; it is never scaled up."""
        columns, rows = self.largest
        return min(width, columns), min(height, rows)

    @property
    def filters(self) -> str:
        """Return ffmpeg's filters for the same, for frames of any size with pixels of any shape, which become square.

        Frames that are small enough stay whole, since ffmpeg would shift subsampled colours by a pixel.
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
