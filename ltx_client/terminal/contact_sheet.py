"""Draw a contact sheet: the middle frame of each of many videos, in one picture."""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltx_client.errors import FarmError, UsageError
from ltx_client.farm.outputs.paths import write_output
from ltx_client.protocol.text import shown

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["draw_sheet"]

CELL = 256
"""The most pixels of a frame's longer side."""
MARGIN = 8
LINE = 13
CAPTION_LINES = 3
MAX_WIDTH = 16_384
LETTER = 6.5
"""The approximate width of a letter of the caption, in pixels."""


def draw_sheet(videos: Sequence[tuple[Path, str]], target: Path) -> None:
    """Write a PNG with a frame and a caption of each video, with about as many columns as rows.

    Raises:
        UsageError: Pillow or ffmpeg is missing, or `target` cannot be written.
        FarmError: A file is not a video.
    """
    try:
        from imageio_ffmpeg import count_frames_and_secs, read_frames
        from PIL import Image, ImageDraw
    except ImportError:
        raise UsageError("a contact sheet needs Pillow and ffmpeg: pip install pillow imageio-ffmpeg") from None
    frames = [_middle_frame(read_frames, count_frames_and_secs, path) for path, _ in videos]
    width = max(frame.width for frame in frames)
    height = max(frame.height for frame in frames)
    columns = min(math.ceil(math.sqrt(len(frames) * height / width)), MAX_WIDTH // (width + MARGIN)) or 1
    rows = math.ceil(len(frames) / columns)
    step = width + MARGIN, height + CAPTION_LINES * LINE + MARGIN
    sheet = Image.new("RGB", (columns * step[0] + MARGIN, rows * step[1] + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (frame, (_, caption)) in enumerate(zip(frames, videos, strict=True)):
        x, y = MARGIN + number % columns * step[0], MARGIN + number // columns * step[1]
        sheet.paste(frame, (x + (width - frame.width) // 2, y + (height - frame.height) // 2))
        draw.multiline_text((x, y + height + 1), _wrapped(caption, int(width / LETTER)), fill="black", spacing=1)
    png = io.BytesIO()
    sheet.save(png, "PNG")
    write_output(target, png.getvalue())


def _wrapped(caption: str, letters: int) -> str:
    head, _, rest = caption.partition("\n")
    lines = [shown(head), *textwrap.wrap(shown(rest), letters, max_lines=CAPTION_LINES - 1, placeholder="...")]
    return "\n".join(line.encode("latin-1", "replace").decode("latin-1") for line in lines)


def _middle_frame(read_frames: Any, count_frames: Any, path: Path) -> Image.Image:
    from PIL import Image

    try:
        count, _ = count_frames(str(path))
        with contextlib.closing(read_frames(str(path))) as frames:
            about = next(frames)
            *_, middle = itertools.islice(frames, count // 2 + 1)
    except (OSError, RuntimeError, ValueError) as error:
        raise FarmError(f"{path} is not a video that ffmpeg can read: {error}") from error
    frame = Image.frombytes("RGB", about["size"], middle)
    frame.thumbnail((CELL, CELL))
    return frame
