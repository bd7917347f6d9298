"""Identify files by their first bytes: the one table of signatures, for the client and for the readers of media.

Other modules add what only they distinguish, such as a Git LFS pointer or an Excel workbook.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "COMPRESSED",
    "GIF",
    "HEAD_BYTES",
    "HEIF",
    "JPEG",
    "MATROSKA",
    "MOV",
    "PNG",
    "PNG_SIGNATURE",
    "RIFF",
    "WEBP",
    "ZIP",
    "Format",
    "format_of",
    "names_of",
]

HEAD_BYTES = 256
"""The number of first bytes that identify a file."""
ISO_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
"""Boxes with which an MP4 or MOV may begin."""
LARGE_BOXES = (b"moov", b"mdat")
"""Boxes whose size may need all of its four bytes; with the other boxes, a text such as "The wide road" is not an MP4.
"""
STILL_BRANDS = frozenset(
    {
        b"heic",
        b"heix",
        b"heim",
        b"heis",
        b"hevc",
        b"hevx",
        b"hevm",
        b"hevs",
        b"mif1",
        b"mif2",
        b"mif3",
        b"msf1",
        b"miaf",
    }
    | {b"avif", b"avis", b"avio", b"avci", b"avcs", b"MiHA", b"MiHB", b"MiHE", b"MiPr", b"MA1A", b"MA1B"}
    | {b"jpeg", b"j2ki", b"j2is", b"vvic", b"vvis", b"evbi", b"evmi", b"evbs"}
)
"""Brands of HEIF: pictures, and bursts of pictures, in the boxes of an MP4."""
FILM_BRANDS = frozenset(
    {b"isom", b"qt  ", b"mp41", b"mp42", b"avc1", b"M4V ", b"M4VP", b"M4VH", b"dash", b"MSNV", b"XAVC", b"f4v "}
)
"""Brands of clips. A file of a brand that is neither here nor HEIF's own is identified by its compatible brands."""


class Format(NamedTuple):
    """A format of files.

    Attributes:
        name: Its name for people.
        holds: "image", "video", "unsupported" for a picture in an unsupported format, or "" for other content.
    """

    name: str
    holds: str


PNG = Format("PNG", "image")
JPEG = Format("JPEG", "image")
WEBP = Format("WebP", "image")
HEIF = Format("HEIC or AVIF", "unsupported")
MOV = Format("MP4 or MOV", "video")
MATROSKA = Format("WebM or Matroska", "video")
GIF = Format("GIF", "video")
RIFF = Format("AVI, WAV or another RIFF file", "")
ZIP = Format("a ZIP archive", "")
COMPRESSED = tuple(Format(f"compressed by {name}", "") for name in ("gzip", "bzip2", "xz", "zstd", "7z", "RAR"))
GZIP, BZIP2, XZ, ZSTD, SEVEN_ZIP, RAR = COMPRESSED
UNKNOWN = Format("unknown format", "")
FORMATS = (PNG, JPEG, WEBP, HEIF, MOV, MATROSKA, GIF)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
BEGINNINGS = {
    PNG_SIGNATURE: PNG,
    b"\xff\xd8\xff": JPEG,
    b"\x1a\x45\xdf\xa3": MATROSKA,
    b"GIF87a": GIF,
    b"GIF89a": GIF,
    b"RIFF": RIFF,
    b"PK\x03\x04": ZIP,
    b"PK\x05\x06": ZIP,  # an empty one
    b"\x1f\x8b": GZIP,
    b"BZh": BZIP2,
    b"\xfd7zXZ\0": XZ,
    b"\x28\xb5\x2f\xfd": ZSTD,
    b"7z\xbc\xaf\x27\x1c": SEVEN_ZIP,
    b"Rar!\x1a\x07": RAR,
}


def format_of(head: bytes) -> Format:
    """Return the format of a file that begins with `head`, its first HEAD_BYTES."""
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return WEBP
    if head[4:8] in ISO_BOXES and (head[0] == 0 or head[4:8] in LARGE_BOXES):
        return HEIF if _is_heif(head) else MOV
    return next((kind for begin, kind in BEGINNINGS.items() if head.startswith(begin)), UNKNOWN)


def names_of(holds: str) -> str:
    """Return the names of the formats of "image" or "video", for people."""
    *names, last = [kind.name for kind in FORMATS if kind.holds == holds]
    return f"{', '.join(names)} and {last}"


def _is_heif(head: bytes) -> bool:
    if head[4:8] != b"ftyp":
        return False
    size, at = int.from_bytes(head[:4], "big"), 8
    if size == 1:  # it stands after the box's name, in 64 bits
        size, at = int.from_bytes(head[8:16], "big"), 16
    major = head[at : at + 4]
    compatible = head[at + 8 : size or len(head)]  # 0 is to the file's end
    brands = {compatible[at : at + 4] for at in range(0, len(compatible) - 3, 4)}
    return major in STILL_BRANDS or (
        not brands & FILM_BRANDS and major not in FILM_BRANDS and bool(brands & STILL_BRANDS)
    )
