"""The pixels of a picture, as large as a video has use for.

Photographs have tens of millions of pixels, and a file of some kilobytes may hold as many of one colour. They are cut
and scaled down as whole numbers, strip by strip; a JPEG already while it is decoded. What Pillow would take too much
memory for, ffmpeg reads, which takes less.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError

from ltx_models.errors import MediaError
from ltx_models.media.clips import HEIF_BRANDS, first_bytes
from ltx_models.media.ffmpeg import read_frames
from ltx_models.media.fit import Box, Fit
from ltx_models.media.headers import check_picture

__all__ = ["read_picture"]

PICTURES = ("PNG", "JPEG", "WEBP")
PILLOW_BYTES = 230_000_000
"""That a picture may take in Pillow, with what the file holds besides it."""
BYTES_OF_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2}
"""In Pillow, by mode; of the others 4."""
WEBP_BYTES = 16
"""Pillow has the picture four times at once."""
DECODERS = {"PNG": "png", "WEBP": "webp"}
"""ffmpeg's, by Pillow's names, of what it can read in place of Pillow."""
ONE_FILE = ("-f", "image2", "-pattern_type", "none")
"""ffmpeg's options to read a picture whole; what reads it from a stream holds it twice."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What is done to a picture of an EXIF orientation, to be shown."""
LYING = (5, 6, 7, 8)
"""Orientations whose columns are shown as rows."""
STRIP_PIXELS = 1_000_000
TEXT_BYTES = 8 << 20
"""Of a PNG's texts and profiles: they are allowed to be there, and nothing is done with them."""
Image.MAX_IMAGE_PIXELS = None  # `headers` has limits for each format, and the memory is bounded here
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = TEXT_BYTES


def read_picture(path: Path, fit: Fit) -> np.ndarray:
    """Return what `fit` uses of a picture, uint8 (H, W, 3), turned as its EXIF orientation says.

    Transparency is dropped. What is larger than twice the video is scaled down to that, by a triangle filter as wide
    as what becomes one pixel, of the values as they are stored. Raises MediaError.
    """
    head = first_bytes(path)
    if head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS:
        raise MediaError(f"{path} is a HEIC or AVIF picture, which is not read; export it as JPEG or PNG")
    try:
        with path.open("rb") as file:
            header = check_picture(file, path)
        return np.array(_read(path, fit, PILLOW_BYTES - (header.kept if header else 0)))
    except UnidentifiedImageError as error:
        raise MediaError(f"{path} is not a picture that is read: PNG, JPEG and WebP are") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        if "MAX_TEXT" in str(error):
            text = f"{path} is too large: it holds more than {TEXT_BYTES >> 20} MB of text or profiles; save it without"
            raise MediaError(text) from error
        raise MediaError(f"{path} is damaged or cut off, and cannot be read as a picture: {error}") from error


def _read(path: Path, fit: Fit, room: int) -> Image.Image:
    """room: bytes that its pixels may take in Pillow."""
    with Image.open(path, formats=PICTURES) as image:
        name = str(image.format)
        by_pillow = name not in DECODERS or _pillow_bytes(image) <= room
        # Of a PNG, its own way would decode the whole picture if the orientation is not at the beginning.
        exif = image.getexif() if by_pillow else Image.Image.getexif(image)
        orientation = exif.get(ExifTags.Base.Orientation)
        fit = fit.turned if orientation in LYING else fit
        pixels = _by_pillow(image, path, fit, room) if by_pillow else None
    if pixels is None:
        del image, exif  # and what Pillow has read of the file
        (frame,) = read_frames(path, ["-noautorotate", *ONE_FILE, "-c:v", DECODERS[name]], fit.filters, 1)
        pixels = Image.fromarray(fit.cut(frame))
    return pixels.transpose(TURNS[orientation]) if orientation in TURNS else pixels


def _pillow_bytes(image: Image.Image) -> int:
    of_pixel = WEBP_BYTES if image.format == "WEBP" else BYTES_OF_PIXEL.get(image.mode, 4)
    return image.width * image.height * of_pixel


def _by_pillow(image: Image.Image, path: Path, fit: Fit, room: int) -> Image.Image:
    if image.format not in DECODERS:
        _shrink_jpeg(image, fit, room)
    if _pillow_bytes(image) > room:
        raise MediaError(f"{path} is damaged: it has another size than it says")
    image.load()
    left, top, right, bottom = box = fit.box(*image.size)
    size = fit.size(right - left, bottom - top)
    return _to_rgb(image.crop(box)) if size == (right - left, bottom - top) else _scaled(image, box, size)


def _shrink_jpeg(image: Image.Image, fit: Fit, room: int) -> None:
    """Have it decoded at a half, a quarter or an eighth of its size, where no more is used or fits into memory."""
    left, top, right, bottom = fit.box(*image.size)
    columns, rows = fit.size(right - left, bottom - top)
    unused = min((right - left) // columns, (bottom - top) // rows)
    too_much = math.sqrt(_pillow_bytes(image) / room)
    shrink = next((by for by in (1, 2, 4) if by >= too_much), 8)
    shrink = max(shrink, unused)
    image.draft(None, (max(1, image.width // shrink), max(1, image.height // shrink)))


def _scaled(image: Image.Image, box: Box, size: tuple[int, int]) -> Image.Image:
    """A part of a picture of any mode in another size, as RGB. No more than strips of it become RGB at once."""
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
        strip = _to_rgb(image.crop((left, first, right, last)))
        region = (0, top + start * scale - first, right - left, top + stop * scale - first)
        scaled.paste(strip.resize((columns, stop - start), Image.Resampling.BILINEAR, region), (0, start))
    return scaled


def _to_rgb(image: Image.Image) -> Image.Image:
    """The one place where the colours of a picture become those of a video."""
    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip
        grey = (np.asarray(image).astype(np.uint32) // 257).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
