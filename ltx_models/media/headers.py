"""Read the size of a picture from its header, and check that decoding it fits in the memory for that.

Plain Python, so that a client can refuse a picture before it is queued.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

from ltx_models.errors import MediaError
from ltx_models.files.formats import HEAD_BYTES, JPEG, PNG, WEBP, format_of

__all__ = ["PictureHeader", "check_picture", "read_header"]

MEGAPIXEL = 10**6
PNG_KINDS = {
    0: ("grey PNG", 200, 100),
    2: ("PNG without transparency", 80, 57),
    3: ("PNG with a palette", 200, 200),
    4: ("grey PNG with transparency", 100, 57),
    6: ("PNG with transparency", 57, 57),
}
"""By PNG's colour type: its name, and the most megapixels that are read, with up to 8 bits a colour and with 16. Like
the limits below, this is what fits in READING_BYTES (`ltx_models.memory`).
"""
MAX_SIDE = 65_535
"""The most pixels a side, also the limit of JPEG."""
JPEG_MEGAPIXELS = 250
"""The most megapixels of a JPEG, which is scaled down while it is decoded."""
JPEG_MEGASAMPLES = 100
"""The most colour samples, in millions, where all of a JPEG's coefficients come before the first pixel."""
COEFFICIENT_BYTES = 2
WEBP_MEGAPIXELS = {"WebP": 80, "WebP with transparency": 60, "lossless WebP": 50, "animated WebP": 12}
ANIMATED = 0x02
"""The animation flag of a WebP in the extended format."""
WEBP_CHUNKS = {b"ALPH": "WebP with transparency", b"VP8 ": "WebP", b"VP8L": "lossless WebP"}
"""Chunks that tell what a WebP is; the first of them is used."""
NO_FRAME = (0xC4, 0xC8, 0xCC)
"""Markers in the range of a JPEG's frame markers that do not begin a frame."""
PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
ALONE = (0x01, *range(0xD0, 0xD9))
"""Markers of a JPEG that have no content."""
START_OF_SCAN = 0xDA


@dataclass(frozen=True)
class PictureHeader:
    """The header of a picture, which may not be true.

    Attributes:
        kind: The format, in words.
        width: Columns.
        height: Rows.
        megapixels: The most megapixels of this kind that are read.
        kept: Bytes that are in memory while it is decoded, in addition to its pixels.
    """

    kind: str
    width: int
    height: int
    megapixels: float
    kept: int = 0


def check_picture(file: BinaryIO, name: object) -> PictureHeader | None:
    """Return the header of a PNG, JPEG or WebP; None for other and damaged files, which fail when decoded.

    Args:
        file: The picture.
        name: The name that errors use.

    Raises:
        MediaError: It has too many pixels.
    """
    header = read_header(file)
    if header is None:
        return None
    width, height, megapixels = header.width, header.height, header.width * header.height / MEGAPIXEL
    if megapixels > header.megapixels or max(width, height) > MAX_SIDE:
        raise MediaError(
            f"{name} is too large: it is {width}x{height}, {megapixels:,.0f} megapixels; at most"
            f" {header.megapixels:.0f} megapixels of a {header.kind} are read, and {MAX_SIDE:,} pixels a side: scale it"
            " down"
        )
    return header


def read_header(file: BinaryIO) -> PictureHeader | None:
    """Return the header of a PNG, JPEG or WebP; None for other files and truncated ones."""
    file.seek(0)
    head = file.read(HEAD_BYTES)
    kind = format_of(head)
    try:
        if kind == PNG:
            return _png(head) if head[12:16] == b"IHDR" else None
        if kind == JPEG:
            return _jpeg(file)
        if kind == WEBP:
            return _webp(file, head)
    except (struct.error, IndexError, KeyError, ValueError, ZeroDivisionError):
        pass
    return None


def _png(head: bytes) -> PictureHeader:
    width, height, bits, colours = struct.unpack_from(">IIBB", head, 16)
    kind, shallow, deep = PNG_KINDS[colours]
    return PictureHeader(kind, width, height, deep if bits == 16 else shallow)


def _jpeg(file: BinaryIO) -> PictureHeader | None:
    """Return the header of the first frame.

    All scans come before the first pixel in a progressive JPEG, and where a scan has fewer colours than the frame.
    """
    file.seek(2)
    frame: tuple[int, int, list[int]] | None = None
    progressive = False
    while True:
        marker = _next_marker(file)
        if marker is None:
            return None
        if marker in ALONE:
            continue
        (length,) = struct.unpack(">H", file.read(2))
        if marker == START_OF_SCAN:
            if frame is None:
                return None
            width, height, sampling = frame
            if progressive or file.read(1)[0] < len(sampling):
                samples = _samples(sampling)
                kept = round(width * height * samples) * COEFFICIENT_BYTES
                return PictureHeader("progressive JPEG", width, height, JPEG_MEGASAMPLES / samples, kept)
            return PictureHeader("JPEG", width, height, JPEG_MEGAPIXELS)
        if 0xC0 <= marker <= 0xCF and marker not in NO_FRAME and frame is None:
            content = file.read(length - 2)
            height, width, colours = struct.unpack_from(">xHHB", content)
            frame = width, height, [content[7 + 3 * number] for number in range(colours)]
            progressive = marker in PROGRESSIVE
        else:
            file.seek(max(length - 2, 0), 1)


def _next_marker(file: BinaryIO) -> int | None:
    """Return the next marker, or None where something else follows."""
    byte = file.read(1)[0]
    if byte != 0xFF:
        return None
    while byte == 0xFF:
        byte = file.read(1)[0]
    return byte


def _samples(sampling: list[int]) -> float:
    """Return the number of samples a pixel.

    A byte of `sampling` has a colour's columns in a unit in its upper four bits, and its rows in the lower four.
    """
    columns, rows = max(byte >> 4 for byte in sampling), max(byte & 15 for byte in sampling)
    return sum((byte >> 4) * (byte & 15) for byte in sampling) / (columns * rows)


def _webp(file: BinaryIO, head: bytes) -> PictureHeader:
    if head[12:16] == b"VP8X":
        width, height = (int.from_bytes(head[at : at + 3], "little") + 1 for at in (24, 27))
        kind = "animated WebP" if head[20] & ANIMATED else _kind_of_frame(file)
    elif head[12:16] == b"VP8L":
        (sides,) = struct.unpack_from("<I", head, 21)
        width, height, kind = (sides & 0x3FFF) + 1, (sides >> 14 & 0x3FFF) + 1, "lossless WebP"
    else:
        sides = struct.unpack_from("<HH", head, 26)
        width, height, kind = sides[0] & 0x3FFF, sides[1] & 0x3FFF, "WebP"
    return PictureHeader(kind, width, height, WEBP_MEGAPIXELS[kind])


def _kind_of_frame(file: BinaryIO) -> str:
    """Return the kind of an extended WebP, in which other chunks may come first."""
    at = 12
    while True:
        file.seek(at)
        name, size = struct.unpack("<4sI", file.read(8))
        if name in WEBP_CHUNKS:
            return WEBP_CHUNKS[name]
        at += 8 + size + size % 2
