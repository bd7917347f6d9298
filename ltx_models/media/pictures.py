"""Read the pixels of a picture, no larger than a video needs.

Photographs have tens of millions of pixels, and a file of some kilobytes may have as many of one colour. They are cut
and scaled down by whole numbers, strip by strip; a JPEG already while it is decoded. ffmpeg, which needs less memory,
reads what Pillow would take too much memory for.
"""

from __future__ import annotations

import math
import struct
import tempfile
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from ltx_models.errors import MediaError
from ltx_models.files.formats import HEIF, PNG, format_of, names_of
from ltx_models.media.display import ToSrgb, is_transparent, srgb_of, still_filters
from ltx_models.media.ffmpeg import read_frames
from ltx_models.media.fit import Box, Fit
from ltx_models.media.headers import check_picture
from ltx_models.media.png import coded_as, needed_of, write_needed
from ltx_models.media.streams import first_bytes

__all__ = ["read_picture"]

PICTURES = ("PNG", "JPEG", "WEBP")
PILLOW_BYTES = 230_000_000
"""Bytes that a picture may take in Pillow, with the other content of its file."""
BYTES_OF_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2}
"""Bytes of a pixel in Pillow, by mode; other modes have 4."""
WEBP_BYTES = 16
"""Bytes of a pixel of a WebP: Pillow has the picture in memory four times."""
DECODERS = {"PNG": "png", "WEBP": "webp"}
"""ffmpeg's decoders that can replace Pillow's, by Pillow's names of the formats."""
ONE_FILE = ("-f", "image2", "-pattern_type", "none")
"""ffmpeg's options to read a picture as a file; reading it from a stream takes twice the memory."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What is done to show a picture of each EXIF orientation."""
LYING = (5, 6, 7, 8)
"""EXIF orientations whose columns are shown as rows."""
STRIP_PIXELS = 1_000_000
Image.MAX_IMAGE_PIXELS = None  # `headers` has limits for each format, and the memory is bounded here


def read_picture(path: Path, fit: Fit) -> np.ndarray:
    """Return what `fit` uses of a picture, uint8 (H, W, 3).

    The colours are those that a player shows (`ltx_models.media.display`); it is turned as its EXIF orientation says;
    an animated one gives its first frame. A picture larger than twice the video is scaled down to that, by a triangle
    filter as wide as what becomes one pixel.

    Raises:
        MediaError: The picture is missing, damaged, too large, or in a format that is not supported.
    """
    kind = format_of(first_bytes(path))
    if kind == HEIF:
        raise MediaError(f"{path} is a HEIC or AVIF picture, which is not read; export it as JPEG or PNG")
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of EXIF and the like that is damaged, and does no harm
            header = check_picture(file, path)
            file.seek(0)
            shown = needed_of(file) if kind == PNG else file
            return np.array(_read(path, file, shown, fit, PILLOW_BYTES - (header.kept if header else 0)))
    except UnidentifiedImageError as error:
        raise MediaError(f"{path} is not a picture in a supported format: {names_of('image')} are") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise MediaError(f"{path} is damaged or cut off, and cannot be read as a picture: {error}") from error


def _read(path: Path, file: BinaryIO, shown: BinaryIO, fit: Fit, room: int) -> Image.Image:
    """Return the decoded picture, cut and scaled down.

    Args:
        path: The file's path.
        file: The file.
        shown: The part of the file that is needed to show it.
        fit: The video that it is for.
        room: Bytes that its pixels may take in Pillow.
    """
    with Image.open(shown, formats=PICTURES) as image:
        name = str(image.format)
        by_pillow = name not in DECODERS or _pillow_bytes(image) <= room
        image.info["cicp"] = coded_as(file) if name == "PNG" else None
        orientation = _orientation_of(image)
        fit = fit.turned if orientation in LYING else fit
        transparent, to_srgb = is_transparent(image), srgb_of(image)
        pixels = _by_pillow(image, path, fit, room, to_srgb) if by_pillow else None
    if pixels is None:
        del image  # and what Pillow has read of the file
        filters = ",".join(filter(None, [fit.filters, still_filters(transparent=transparent)]))
        pixels = to_srgb(Image.fromarray(fit.cut(_by_ffmpeg(path, file, name, filters))))
    return pixels.transpose(TURNS[orientation]) if orientation in TURNS else pixels


def _by_ffmpeg(path: Path, file: BinaryIO, name: str, filters: str) -> np.ndarray:
    with tempfile.TemporaryDirectory(prefix="ltx-picture-") as folder:
        copy = Path(folder) / "picture"
        if name == "PNG":
            write_needed(file, copy)
        else:
            copy = path
        try:
            source = ["-noautorotate", *ONE_FILE, "-c:v", DECODERS[name]]
            (frame,) = read_frames(copy, source, ["-vf", filters], 1)
        except MediaError as error:
            raise MediaError(str(error).replace(str(copy), str(path))) from error
    return frame


def _orientation_of(image: Image.Image) -> int | None:
    """Return the EXIF orientation from what comes before the pixels, or None where that is damaged.

    Pillow's own way would decode a PNG.
    """
    try:
        orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
    except (OSError, SyntaxError, ValueError, struct.error, TypeError, KeyError):
        return None
    return orientation if isinstance(orientation, int) else None


def _pillow_bytes(image: Image.Image) -> int:
    of_pixel = WEBP_BYTES if image.format == "WEBP" else BYTES_OF_PIXEL.get(image.mode, 4)
    return image.width * image.height * of_pixel


def _by_pillow(image: Image.Image, path: Path, fit: Fit, room: int, to_srgb: ToSrgb) -> Image.Image:
    if image.format not in DECODERS:
        _shrink_jpeg(image, fit, room)
    if _pillow_bytes(image) > room:
        raise MediaError(f"{path} is damaged: its size differs from its header's")
    image.load()
    left, top, right, bottom = box = fit.box(*image.size)
    size = fit.size(right - left, bottom - top)
    if size == (right - left, bottom - top):
        return to_srgb(image.crop(box))
    return _scaled(image, box, size, to_srgb)


def _shrink_jpeg(image: Image.Image, fit: Fit, room: int) -> None:
    """Decode at a half, a quarter or an eighth of the size, where no more is used or fits into memory."""
    left, top, right, bottom = fit.box(*image.size)
    columns, rows = fit.size(right - left, bottom - top)
    unused = min((right - left) // columns, (bottom - top) // rows)
    too_much = math.sqrt(_pillow_bytes(image) / room)
    shrink = next((by for by in (1, 2, 4) if by >= too_much), 8)
    shrink = max(shrink, unused)
    image.draft(None, (max(1, image.width // shrink), max(1, image.height // shrink)))


def _scaled(image: Image.Image, box: Box, size: tuple[int, int], to_srgb: ToSrgb) -> Image.Image:
    """Return a part of a picture of any mode in another size, in sRGB; only strips of it are converted at once."""
    left, top, right, bottom = box
    columns, rows = size
    scale = (bottom - top) / rows
    reach = math.ceil(scale) + 1
    step = max(1, int(STRIP_PIXELS / (right - left) / scale))
    scaled = Image.new("RGB", size)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        first = max(top, top + math.floor(start * scale) - reach)
        last = min(bottom, top + math.ceil(stop * scale) + reach)
        strip = to_srgb(image.crop((left, first, right, last)))
        region = (0, top + start * scale - first, right - left, top + stop * scale - first)
        scaled.paste(strip.resize((columns, stop - start), Image.Resampling.BILINEAR, region), (0, start))
    return scaled
