"""Pictures in the terminal itself, where it can show them: Kitty's protocol, or Sixel (iTerm2, WezTerm, foot …).

textual-image asks the terminal; without that package, or where the terminal does not answer, there are none.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from io import BytesIO

from rich.console import RenderableType

__all__ = ["Picture", "detect"]

Picture = Callable[[bytes], RenderableType]
"""From a JPEG to what rich can print."""
ROWS = 12
MOST_PIXELS = 2**24
"""Of a preview: more than any worker makes."""
TOO_LARGE = "(this preview is too large to be shown)"


def detect(wanted: bool | None) -> Picture | None:
    """How pictures are shown here, if at all. wanted: None is where it can be.

    Asks the terminal, which takes up to 0.2 s, and so is done before anything else is drawn.
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
        """Return what rich can print: a sentence in place of what is no JPEG of a preview's size."""
        try:
            image = Image.open(BytesIO(jpeg), formats=("JPEG",))
            if image.width * image.height > MOST_PIXELS:
                return TOO_LARGE
            image.load()
        except Image.DecompressionBombError:  # raised by `open`, unless somebody has lifted Pillow's own limit
            return TOO_LARGE
        except (OSError, ValueError, SyntaxError):
            return "(this preview cannot be shown: it is no JPEG)"
        return kind(image, width="auto", height=ROWS)

    return picture
