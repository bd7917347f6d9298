"""Show pictures in the terminal itself, if it can: by Kitty's protocol, or Sixel (iTerm2, WezTerm, foot …).

textual-image asks the terminal; without that package, or if the terminal does not answer, no pictures are shown.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from io import BytesIO

from rich.console import RenderableType

__all__ = ["Picture", "detect"]

Picture = Callable[[bytes], RenderableType]
"""Turns a JPEG into what rich can print."""
ROWS = 12
MOST_PIXELS = 2**24
"""The most pixels of a preview: more than any worker makes."""
TOO_LARGE = "(this preview is too large to be shown)"


def detect(wanted: bool | None) -> Picture | None:
    """Return a function that turns a JPEG into what rich can print; None if pictures cannot be shown.

    The terminal is asked, which takes up to 0.2 s, and so must precede all other output.

    Args:
        wanted: Whether to show pictures; None to show them if the terminal can.
    """
    streams = (sys.stdin, sys.stdout, sys.stderr)
    if wanted is False or os.environ.get("TERM") == "dumb" or not all(stream.isatty() for stream in streams):
        return None
    try:
        from PIL import Image
        from textual_image import renderable  # asks while it is imported
    except ImportError:
        return None
    kind = renderable.Image
    if kind not in (renderable.TGPImage, renderable.SixelImage):
        return None

    def picture(jpeg: bytes) -> RenderableType:
        """Return what rich can print: a sentence if the data is not a JPEG of a preview's size."""
        try:
            image = Image.open(BytesIO(jpeg), formats=("JPEG",))
            if image.width * image.height > MOST_PIXELS:
                return TOO_LARGE
            image.load()
        except Image.DecompressionBombError:  # raised by `open`, unless Pillow's own limit was changed
            return TOO_LARGE
        except (OSError, ValueError, SyntaxError):
            return "(this preview cannot be shown: it is not a JPEG)"
        return kind(image, width="auto", height=ROWS)

    return picture
