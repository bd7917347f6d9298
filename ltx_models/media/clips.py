"""The frames of a clip, as large as a video has use for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ltx_models.errors import MediaError
from ltx_models.media.ffmpeg import read_frames
from ltx_models.media.fit import Fit

__all__ = ["HEIF_BRANDS", "first_bytes", "read_clip"]

HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis")
FIRST_BYTES = 32


def read_clip(path: Path, most: int, fit: Fit | None = None) -> Iterator[np.ndarray]:
    """Yield the first frames of a clip (MP4, MOV, WebM, Matroska or GIF), at most so many: uint8 (H, W, 3) each.

    fit: what they are for; those that are larger than it has use for are cut and scaled down while they are
    decoded. The frame rate is not used, and frames are turned as the clip says. Raises MediaError.
    """
    filters = "null" if fit is None else fit.filters
    return read_frames(path, ["-f", _container(path)], filters, most)


def _container(path: Path) -> str:
    """ffmpeg's name of the format. It is not left to guess: some formats that it knows name other files to read."""
    head = first_bytes(path)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free") and head[8:12] not in HEIF_BRANDS:
        return "mov"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    raise MediaError(f"{path} is not a clip that is read: MP4, MOV, WebM, Matroska and GIF are")


def first_bytes(path: Path) -> bytes:
    """Return how a file begins. Raises MediaError."""
    try:
        with path.open("rb") as file:
            return file.read(FIRST_BYTES)
    except OSError as error:
        raise MediaError(f"{path} cannot be read: {error.strerror}") from error
