"""Decide how the colours of a picture or a clip become those of a video, sRGB, as a player shows them.

- A picture's ICC profile is applied by Pillow (Little CMS). One that is broken, or is of other colours than the picture
  has, is ignored, as players do. Without one, a PNG's gamma is applied. What a PNG says by numbers (cICP, which
  screenshots in HDR have) has precedence over both.
- Clips in HLG and PQ, and with the primaries of BT.2020 and P3, go through a table (`ltx_models.media.colours`). The
  matrix is the stream's; where it says none, BT.709's from 720 lines on, else BT.601's. Interlaced frames, which are
  woven of two fields, become whole ones.
- What is transparent is laid over BACKGROUND.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageColor

from ltx_models.media.colours import HDR, PRIMARIES, convert, to_srgb, write_cube
from ltx_models.media.fit import Fit
from ltx_models.media.streams import Stream

__all__ = ["BACKGROUND", "ToSrgb", "clip_filters", "is_transparent", "srgb_of", "still_filters", "write_table"]

BACKGROUND = "white"
OPAQUE = {"LA": "L", "PA": "RGB", "RGBA": "RGB"}
"""Pillow's modes with transparency, and their modes without it."""
PROFILED = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""Pillow's modes, by the colour space of an ICC profile."""
SRGB_GAMMA = 0.45455
CODED_PRIMARIES = {1: "bt709", 5: "bt709", 6: "bt709", 9: "bt2020", 12: "smpte432"}
CODED_TRANSFERS = {1: "", 6: "", 13: "", 14: "", 15: "", 16: "smpte2084", 18: "arib-std-b67"}
"""ffmpeg's names of a PNG's transfer functions; "" for those that are shown unchanged. Others are not supported."""
CUBE = "to_srgb.cube"
"""The file of a clip's table, in the folder that ffmpeg runs in."""
TRANSPARENT = ("rgba", "bgra", "argb", "abgr", "yuva", "gbrap", "ya8", "ya16", "pal8", "ayuv")
"""The beginnings of ffmpeg's names of pixel formats with transparency."""
HD_ROWS = 720
"""The number of rows from which the matrix is BT.709's where a clip names none."""


ToSrgb = Callable[[Image.Image], Image.Image]
"""A function from a picture without transparency, of any mode, to one in RGB."""


def srgb_of(image: Image.Image) -> ToSrgb:
    """Return a function that converts a picture's pixels, or some of them, to sRGB; only its header is read."""
    said = _coded_of(image.info) or _profile_of(image.info, image.mode) or _gamma_of(image.info)
    opaque = said or (lambda part: part.convert("RGB"))

    def shown(part: Image.Image) -> Image.Image:
        part, alpha = _apart(part)
        colours = opaque(part)
        return over_background(colours, alpha) if alpha is not None else colours

    return shown


def over_background(colours: Image.Image, alpha: Image.Image) -> Image.Image:
    """Lay a picture in RGB over BACKGROUND where it is transparent."""
    return Image.composite(colours, Image.new("RGB", colours.size, BACKGROUND), alpha)


def is_transparent(image: Image.Image) -> bool:
    """Return whether a picture may have transparency."""
    return image.mode in OPAQUE or "transparency" in image.info


def _apart(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return a picture in 8 bits without its transparency, and the transparency."""
    clear = image.info.get("transparency")
    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip
        values = np.asarray(image).astype(np.uint32)
        grey = Image.fromarray((values // 257).astype(np.uint8))
        return grey, None if clear is None else Image.fromarray((values != clear).astype(np.uint8) * 255)
    if clear is not None and image.mode not in OPAQUE:
        image = image.convert("RGBA")
    if image.mode == "PA":
        image = image.convert("RGBA")
    if image.mode not in OPAQUE:
        return image, None
    return image.convert(OPAQUE[image.mode]), image.getchannel("A")


def _profile_of(info: dict[Any, Any], mode: str) -> ToSrgb | None:
    """Return a function that applies the picture's ICC profile, or None where it has no usable one."""
    data = info.get("icc_profile")
    if not isinstance(data, bytes) or not data:
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        kind = PROFILED.get(str(profile.profile.xcolor_space))
        if kind is None or (kind == "CMYK") != (mode == "CMYK") or (kind == "L" and mode in ("RGB", "RGBA", "P", "PA")):
            return None
        transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), kind, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None

    def applied(part: Image.Image) -> Image.Image:
        converted = ImageCms.applyTransform(part.convert(kind), transform)
        assert converted is not None
        return converted

    return applied


def _coded_of(info: dict[Any, Any]) -> ToSrgb | None:
    """Return a function that applies a PNG's coded primaries and transfer function, or None without supported ones."""
    numbers = info.get("cicp")
    if numbers is None or numbers[0] not in CODED_PRIMARIES or numbers[1] not in CODED_TRANSFERS:
        return None
    primaries, transfer = CODED_PRIMARIES[numbers[0]], CODED_TRANSFERS[numbers[1]]
    if primaries == "bt709" and not transfer:
        return lambda part: part.convert("RGB")

    def applied(part: Image.Image) -> Image.Image:
        pixels = np.array(part.convert("RGB"))
        for row in pixels:  # all of them at once would take much memory
            row[:] = np.rint(255 * convert(row / 255, transfer, primaries))
        return Image.fromarray(pixels)

    return applied


def _gamma_of(info: dict[Any, Any]) -> ToSrgb | None:
    """Return a function that applies the gamma of a PNG that is not in sRGB, or None."""
    gamma = info.get("gamma")
    if not isinstance(gamma, float) or "srgb" in info or not 0.05 < gamma < 5 or abs(gamma - SRGB_GAMMA) < 0.01:
        return None
    table = [round(float(to_srgb(np.array((value / 255) ** (1 / gamma)))) * 255) for value in range(256)]
    return lambda part: part.convert("RGB").point(table * 3)


@dataclass(frozen=True)
class _Table:
    """The transfer function and primaries that a clip's table converts from; no table is needed for a screen's own."""

    transfer: str
    primaries: str


def _table_of(stream: Stream) -> _Table | None:
    hdr = stream.transfer in HDR
    primaries = (
        stream.primaries if stream.primaries in PRIMARIES else "bt2020" if hdr and not stream.primaries else "bt709"
    )
    return _Table(stream.transfer, primaries) if hdr or primaries != "bt709" else None


def write_table(stream: Stream, folder: Path) -> None:
    """Write the table that `clip_filters` names, if it names one."""
    if table := _table_of(stream):
        write_cube(folder / CUBE, table.transfer, table.primaries)


def clip_filters(stream: Stream, fit: Fit | None, rate: str = "") -> str:
    """Return ffmpeg's filters that show a clip's frames as a player does.

    Args:
        stream: The clip's stream.
        fit: The video that the frames are for, or None.
        rate: A filter for the times of frames, or "".
    """
    table, transparent = _table_of(stream), stream.pixel_format.startswith(TRANSPARENT)
    filters = [
        "bwdif=mode=send_frame:deint=interlaced" if stream.interlaced else "",
        _matrix_of(stream),
        fit.filters if fit else "",
        rate,  # it holds two frames or three: small ones
        f"format={'gbrap16' if transparent else 'gbrp16'},lut3d={CUBE}:interp=tetrahedral" if table else "",
        still_filters(transparent=transparent),
    ]
    return ",".join(filter(None, filters)) or "null"


def _matrix_of(stream: Stream) -> str:
    """Return the filter that sets the colour matrix where the stream does not name one."""
    if stream.matrix or not stream.pixel_format.startswith("yuv"):
        return ""
    hd = "bt709" if stream.height >= HD_ROWS else "smpte170m"
    return f"setparams=colorspace={'bt2020nc' if stream.transfer in HDR else hd}"


def still_filters(*, transparent: bool) -> str:
    """Return ffmpeg's filters that lay a picture over BACKGROUND where it is transparent."""
    if not transparent:
        return ""
    under = "lutrgb=r={}:g={}:b={}:a=255".format(*ImageColor.getrgb(BACKGROUND))  # drawbox crashes some ffmpegs here
    return f"format=rgba,split[over][same];[same]{under}[under];[under][over]overlay=format=rgb"
