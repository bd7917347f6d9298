"""Ask ffmpeg what a clip is before any of it is read: its frames' times, its colours, whether it is interlaced."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path

from ltx_models.errors import MediaError
from ltx_models.files.formats import GIF, HEAD_BYTES, MATROSKA, MOV, format_of, names_of
from ltx_models.media.ffmpeg import ffmpeg_lines
from ltx_models.request import MAX_FRAME_RATE

__all__ = ["FIRST_VIDEO", "Stream", "demuxer_of", "first_bytes", "read_stream"]

FIRST_VIDEO = ("-map", "0:V:0")
"""ffmpeg's options for the first video stream; the cover of a film, which may come first, does not count."""
DEMUXERS = {MOV: "mov", MATROSKA: "matroska", GIF: "gif"}
MOST_FRAMES = 5_000_000
"""The most frames whose times are kept: a day of 60 frames a second."""
DISCARDED = 4
"""The flag of frames outside of the file's edit list."""
TIME_BASE = re.compile(r"#tb 0: (\d+)/(\d+)")
PACKET = re.compile(r"0, +-?\d+, +(-?\d+), +(\d+), +\d+, 0x[0-9a-f]+(?:, F=0x([0-9A-F]+))?")
"""A frame's time, its duration, and its flags, as ffmpeg lists them."""
ALPHA = re.compile(r"\s+alpha_mode +: 1$", re.IGNORECASE)
"""The metadata of a WebM whose transparency is a stream inside its stream: only libvpx decodes it."""
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
VIDEO = re.compile(r"Stream #0:0.*?: Video: (\w+).*?, (\w+)(?:\((.*?)\))?, (\d+)x(\d+)")
INTERLACED_CODECS = frozenset({"mpeg2video", "dvvideo"})
"""Codecs in which each frame says whether it is interlaced; the file's own statement is often wrong."""
ALIKE = frozenset({"bt709", "bt2020", "smpte170m", "smpte240m", "fcc", "bt470bg", "gbr"})
"""Names that ffmpeg prints once where matrix, primaries and transfer function have the same name."""


@dataclass(frozen=True)
class Stream:
    """The first video stream of a file; what is not known of it is empty.

    Attributes:
        times: The times of its frames, in seconds, in order.
        length: The second at which the last frame ends.
        pixel_format: ffmpeg's name of the pixel format.
        decoder: ffmpeg's name of a decoder, where its own choice is wrong.
        matrix: ffmpeg's name of the colour matrix.
        primaries: ffmpeg's name of the primaries.
        transfer: ffmpeg's name of the transfer function.
        interlaced: Whether its frames may be woven of two fields.
        width: Columns, as stored.
        height: Rows, as stored.
    """

    times: array[float]
    length: float
    pixel_format: str = ""
    decoder: str = ""
    matrix: str = ""
    primaries: str = ""
    transfer: str = ""
    interlaced: bool = False
    width: int = 0
    height: int = 0

    @property
    def rate(self) -> float:
        """The average number of frames a second, at most what a request may have."""
        return min(len(self.times) / self.length, MAX_FRAME_RATE) if self.times and self.length else 24.0

    def shown_at(self, second: float) -> float:
        """Return the time of the frame that is shown at a second of the clip."""
        index = bisect_right(self.times, second)
        return max(0.0, self.times[index - 1]) if index else 0.0


def demuxer_of(path: Path) -> str:
    """Return ffmpeg's name of a clip's format. Raise MediaError for other files.

    ffmpeg must not guess it: some formats that it knows name other files to read.
    """
    try:
        return DEMUXERS[format_of(first_bytes(path))]
    except KeyError:
        raise MediaError(f"{path} is not a clip in a supported format: {names_of('video')} are") from None


def first_bytes(path: Path) -> bytes:
    """Return the first bytes of a file. Raise MediaError."""
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError as error:
        raise MediaError(f"{path} cannot be read: {error.strerror}") from error


def read_stream(path: Path) -> Stream:
    """Return a clip's stream, by listing its frames without decoding them.

    Raises:
        MediaError: The clip is missing, damaged, too long, or in a format that is not supported.
        VideoError: ffmpeg does not run.
    """
    said: list[str] = []
    base, end, times = 0.0, 0.0, array("d")
    output = [*FIRST_VIDEO, "-c", "copy", "-avoid_negative_ts", "disabled", "-f", "framecrc", "pipe:1"]
    for line in ffmpeg_lines(path, ["-f", demuxer_of(path)], output, said):
        if match := TIME_BASE.match(line):
            base = int(match[1]) / max(1, int(match[2]))
        elif (match := PACKET.match(line)) and not int(match[3] or "0", 16) & DISCARDED:
            times.append(int(match[1]) * base)
            end = max(end, times[-1] + int(match[2]) * base)
            if len(times) > MOST_FRAMES:
                raise MediaError(f"{path} is too long: it has more than {MOST_FRAMES:,} frames; cut it")
    return _described(said, array("d", sorted(times)), end)


def _described(said: list[str], times: array[float], end: float) -> Stream:
    """Return the stream that ffmpeg's messages describe; their last line on a stream is of the chosen one."""
    match = next((found for line in reversed(said) if (found := VIDEO.search(line))), None)
    if match is None:
        return Stream(times, end)
    codec, pixel_format, colours, width, height = match.groups()
    decoder = ALPHA_DECODERS.get(codec, "") if any(map(ALPHA.search, said)) else ""
    words = [word.strip() for word in (colours or "").split(",")]
    coded = next((word for word in words if "/" in word), None)
    named = coded.split("/") if coded else [next((word for word in words if word in ALIKE), "")] * 3
    matrix, primaries, transfer, *_ = ("" if name == "unknown" else name for name in (*named, "", ""))
    return Stream(
        times,
        end,
        "yuva420p" if decoder else pixel_format,
        decoder,
        matrix,
        primaries,
        transfer,
        interlaced=codec in INTERLACED_CODECS
        or any(word.endswith(("first", "swapped)")) or word.startswith(("top", "bottom")) for word in words),
        width=int(width),
        height=int(height),
    )
