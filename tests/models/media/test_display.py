"""Test that pictures and clips are read as a player shows them: the right colours, shapes and frames."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from ltx_models.media import pictures
from ltx_models.media.clips import read_clip
from ltx_models.media.fit import Fit
from ltx_models.media.pictures import read_picture
from tests.models.media.media_files import chunk, compressed_text, run_ffmpeg, write_png

FIT = Fit(64, 32, crop=True)
Write = Callable[[Path], object]


def fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def profile(colours: bytes, gamma: float, *primaries: tuple[float, float, float]) -> bytes:
    """Return an ICC profile of a gamma and of the primaries of RGB; without primaries, of grey."""
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78)
    curve = b"curv\0\0\0\0" + struct.pack(">IHH", 1, round(gamma * 256), 0)
    tags = {b"desc": text, b"cprt": b"text\0\0\0\0none\0", b"wtpt": b"XYZ \0\0\0\0" + fixed(0.9642, 1, 0.8249)}
    tags |= {b"rgb"[at : at + 1] + b"XYZ": b"XYZ \0\0\0\0" + fixed(*xyz) for at, xyz in enumerate(primaries)}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC") if primaries else (b"kTRC",), curve)
    at, table, data = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", at + len(data), len(content))
        data += content
    head = struct.pack(">I4sI4s4s4s6H4s4s", len(table + data) + 128, b"none", 0x02400000, b"mntr", colours, b"XYZ ",
                       2026, 1, 1, 0, 0, 0, b"acsp", b"APPL")  # fmt: skip
    head += bytes(24) + struct.pack(">I", 0) + fixed(0.9642, 1, 0.8249)
    return head.ljust(128, b"\0") + table + data


P3 = profile(b"RGB ", 2.2, (0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))
LINEAR_GREY = profile(b"GRAY", 1.0)
RED, SHOWN_RED = (200, 40, 40), (220, 0, 18)


def save(colour: object, mode: str = "RGB", form: str = "PNG", **options: object) -> Write:
    return lambda path: Image.new(mode, (64, 32), colour).save(path, form, **options)  # type: ignore[arg-type]


def palette(path: Path) -> None:
    image = Image.new("P", (64, 32), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.save(path, "PNG", transparency=1)


def gamma(path: Path) -> None:
    """Return half of a linear signal."""
    write_png(path, (64, 32), before=chunk(b"gAMA", struct.pack(">I", 100_000)))


def deep(path: Path) -> None:
    Image.fromarray(np.full((32, 64), 200 * 257, np.uint16)).save(path, "PNG", icc_profile=LINEAR_GREY)


def cut_in_its_texts(path: Path) -> None:
    write_png(path, (64, 32), after=chunk(b"tEXt", bytes(1_000)))
    path.write_bytes(path.read_bytes()[:-500])


def many_app_segments(path: Path) -> None:
    """Return a JPEG with 10 MB of XMP, and with damaged EXIF."""
    Image.new("RGB", (64, 32), RED).save(path, "JPEG", quality=100, subsampling=0)
    data = path.read_bytes()
    segment = b"\xff\xe1" + struct.pack(">H", 65_535)
    broken = b"\xff\xe1" + struct.pack(">H", 20) + b"Exif\0\0MM\0*\xff\xff\xff\xff" + bytes(4)
    extended = b"http://ns.adobe.com/xmp/extension/\0".ljust(65_533, b"x")
    path.write_bytes(data[:2] + broken + 160 * (segment + extended) + data[2:])


def coded(primaries: int, transfer: int, colour: object = RED, **options: object) -> Write:
    """Return a PNG that declares its colours by ITU-T H.273's numbers."""

    def write(path: Path) -> None:
        save(colour, **options)(path)
        data = path.read_bytes()
        path.write_bytes(data[:33] + chunk(b"cICP", bytes([primaries, transfer, 0, 1])) + data[33:])

    return write


SECRETS = zlib.compress(os.urandom(1_000_000))
GREY_55 = (0x55, 0x55, 0x55)
PICTURES: dict[str, tuple[Write, tuple[int, int, int]]] = {
    "PNG in P3": (save(RED, icc_profile=P3), SHOWN_RED),
    "JPEG in P3": (save(RED, form="JPEG", quality=100, subsampling=0, icc_profile=P3), SHOWN_RED),
    "WebP in P3": (save(RED, form="WEBP", lossless=True, icc_profile=P3), SHOWN_RED),
    "P3 with transparency": (save((*RED, 255), "RGBA", icc_profile=P3), SHOWN_RED),
    "a grey profile": (save(128, "L", icc_profile=LINEAR_GREY), (188, 188, 188)),
    "grey in a profile of colours": (save(255, "L", icc_profile=P3), (255, 255, 255)),
    "16 bits of grey with a profile": (deep, (229, 229, 229)),
    "a profile that is broken": (save(RED, icc_profile=P3[:200]), RED),
    "a profile that is noise": (save(RED, icc_profile=b"no profile"), RED),
    "a profile of other colours": (save(RED, icc_profile=LINEAR_GREY), RED),
    "sRGB": (save(RED, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()), RED),
    "CMYK": (save((0, 0, 0, 0), "CMYK", "JPEG", quality=100), (255, 255, 255)),
    "CMYK with a profile of RGB": (save((0, 0, 0, 0), "CMYK", "JPEG", quality=100, icc_profile=P3), (255, 255, 255)),
    "a gamma": (gamma, (156, 156, 156)),
    "P3 by its numbers": (coded(12, 13), (218, 0, 26)),  # of the curve of sRGB, not of a gamma of 2.2
    "sRGB by its numbers, whatever its profile": (coded(1, 13, icc_profile=P3), RED),
    "PQ by its numbers": (coded(9, 16, (148, 148, 148)), (242, 242, 242)),
    "HLG by its numbers": (coded(9, 18, (191, 191, 191)), (244, 244, 244)),
    "numbers that mean nothing": (coded(99, 0, icc_profile=P3), SHOWN_RED),
    "nothing": (save((0, 0, 0, 0), "RGBA"), (255, 255, 255)),
    "half of black": (save((0, 0, 0, 128), "RGBA"), (127, 127, 127)),
    "half of grey": (save((0, 128), "LA"), (127, 127, 127)),
    "half of black in WebP": (save((0, 0, 0, 128), "RGBA", "WEBP", lossless=True, exact=True), (127, 127, 127)),
    "a palette's colour": (palette, (255, 255, 255)),
    "one colour": (save(RED, transparency=RED), (255, 255, 255)),
    "one grey": (save(9, "L", transparency=9), (255, 255, 255)),
    "a megabyte of text": (lambda path: write_png(path, (64, 32), before=chunk(b"zTXt", b"k\0\0" + SECRETS)), GREY_55),
    "a megabyte of text that is a gigabyte": (
        lambda path: write_png(path, (64, 32), before=(text := compressed_text(b"iTXt", 50_000_000)), after=text),
        GREY_55,
    ),
    "a profile of 20 MB": (
        lambda path: write_png(path, (64, 32), before=compressed_text(b"iCCP", 20_000_000)),
        GREY_55,
    ),
    "a text that is damaged": (
        lambda path: write_png(path, (64, 32), before=chunk(b"zTXt", b"k\0\0no zlib")[:-4] + b"crc!"),
        GREY_55,
    ),
    "a profile that is damaged": (
        lambda path: write_png(path, (64, 32), before=chunk(b"iCCP", b"k\0\0no zlib")[:-4] + b"crc!"),
        GREY_55,
    ),
    "an unknown method of compression": (
        lambda path: write_png(path, (64, 32), before=chunk(b"zTXt", b"k\0\7abc")),
        GREY_55,
    ),
    "100,000 texts": (lambda path: write_png(path, (64, 32), before=100_000 * chunk(b"tEXt", b"k\0v")), GREY_55),
    "a text that is cut off": (cut_in_its_texts, GREY_55),
    "no end": (
        lambda path: path.write_bytes(write_png(path, (64, 32)).read_bytes()[:-12]),
        GREY_55,
    ),
    "a JPEG with 10 MB of XMP": (many_app_segments, RED),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_a_picture_is_read_as_it_is_shown(tmp_path: Path, kind: str) -> None:
    write, colour = PICTURES[kind]
    write(tmp_path / "picture")
    read = read_picture(tmp_path / "picture", FIT)
    assert read.shape == (32, 64, 3)
    assert np.abs(read.astype(int) - colour).max() <= 3, read[0, 0]


@pytest.mark.parametrize(
    "kind", ["PNG in P3", "WebP in P3", "half of black", "a profile of 20 MB", "a gamma", "PQ by its numbers"]
)
def test_what_ffmpeg_reads_is_shown_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(pictures, "PILLOW_BYTES", 0)
    test_a_picture_is_read_as_it_is_shown(tmp_path, kind)


def test_transparency_is_laid_over_white_before_it_is_scaled(tmp_path: Path) -> None:
    """Otherwise the hidden black would darken the pixels next to it."""
    pixels = np.zeros((320, 640, 4), np.uint8)
    pixels[:, 320:] = 255
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    assert read_picture(tmp_path / "picture.png", FIT).min() == 255


def encode(colour: tuple[int, ...] | str, *options: str, size: str = "64x32", rate: int = 24) -> Write:
    """Encode a clip of one colour."""
    name = colour if isinstance(colour, str) else "0x" + bytes(colour).hex()
    source = ("-f", "lavfi", "-i", f"color={name}:s={size}:r={rate}:d=0.25,format=gbrap")
    return lambda path: run_ffmpeg(*source, *options, str(path))


def h264(matrix: str, *, tag: str | None = None, full: bool = False, size: str = "64x32") -> Write:
    span = "pc" if full else "tv"
    scale = f"scale=out_color_matrix={matrix}:out_range={span}:flags=accurate_rnd+full_chroma_int,format=yuv420p"
    tags = ("-colorspace", tag, "-color_primaries", "bt709", "-color_trc", "bt709") if tag else ()
    return encode(RED, "-vf", scale, "-c:v", "libx264", "-crf", "1", *tags, "-color_range", span, size=size)


def hdr(transfer: str, code: tuple[int, int, int]) -> Write:
    """Encode a clip of one code value of 10 bits, as an HDR camera writes it."""

    def write(path: Path) -> None:
        luma, *chroma = (
            np.full(size, value, "<u2").tobytes() for size, value in zip((2048, 512, 512), code, strict=True)
        )
        (path.parent / "raw").write_bytes(6 * (luma + b"".join(chroma)))
        raw = ("-f", "rawvideo", "-pix_fmt", "yuv420p10le", "-s", "64x32", "-r", "24", "-i", str(path.parent / "raw"))
        tags = f"log-level=none:lossless=1:colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc"
        run_ffmpeg(*raw, "-c:v", "libx265", "-x265-params", tags, str(path))

    return write


def transparent_gif(path: Path) -> None:
    """Return transparent black, with a white pixel that moves."""
    frames = []
    for number in range(3):
        frames.append(Image.new("P", (64, 32), 0))
        frames[-1].putpalette([0, 0, 0, 255, 255, 255])
        frames[-1].putpixel((number, 9), 1)
    frames[0].save(path, save_all=True, append_images=frames[1:], transparency=0, disposal=2, duration=40)


def code_of(part: float) -> int:
    return round(64 + 876 * part)


WHITE = (255, 255, 255)
CLIPS: dict[str, tuple[str, Write, tuple[int, int, int], int]] = {
    "BT.601": ("a.mp4", h264("bt601", tag="smpte170m"), RED, 3),
    "BT.709": ("a.mp4", h264("bt709", tag="bt709"), RED, 3),
    "BT.709, full range": ("a.mp4", h264("bt709", tag="bt709", full=True), RED, 3),
    "BT.2020, constant primaries": ("a.mp4", h264("bt2020", tag="bt2020nc"), RED, 3),
    "a small clip that does not say": ("a.mp4", h264("bt601"), RED, 3),
    "a large clip that does not say": ("a.mp4", h264("bt709", size="1280x720"), RED, 4),
    "HLG, the white of paper": ("a.mov", hdr("arib-std-b67", (code_of(0.75), 512, 512)), (244, 244, 244), 3),
    "HLG, the brightest": ("a.mov", hdr("arib-std-b67", (940, 512, 512)), WHITE, 2),
    "HLG, black": ("a.mov", hdr("arib-std-b67", (64, 512, 512)), (0, 0, 0), 2),
    "HLG, grey of 18 %": ("a.mov", hdr("arib-std-b67", (code_of(0.38), 512, 512)), (99, 99, 99), 6),
    "PQ, the white of paper": ("a.mov", hdr("smpte2084", (code_of(0.58), 512, 512)), (244, 244, 244), 3),
    "PQ, brighter than any screen": ("a.mov", hdr("smpte2084", (940, 512, 512)), WHITE, 2),
    "ProRes with transparency": (
        "a.mov", encode("black@0.5", "-c:v", "prores_ks", "-pix_fmt", "yuva444p10le"), (127, 127, 127), 3,
    ),
    "animation with transparency": ("a.mov", encode("black@0", "-c:v", "qtrle", "-pix_fmt", "argb"), WHITE, 1),
    "VP9 with transparency": (
        "a.webm", encode("black@0.5", "-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p"), (127, 127, 127), 4,
    ),
    "GIF with transparency": ("a.gif", transparent_gif, WHITE, 1),
}  # fmt: skip


@pytest.mark.parametrize("kind", CLIPS)
def test_a_clip_is_read_as_it_is_shown(tmp_path: Path, kind: str) -> None:
    name, write, colour, within = CLIPS[kind]
    write(tmp_path / name)
    frames = list(read_clip(tmp_path / name, 3, FIT))
    assert len(frames) == 3
    assert np.abs(np.stack(frames).astype(int) - colour).max() <= within, frames[0][0, 0]


@pytest.mark.parametrize("sar", ["16/11", "1/2", "1"])
def test_pixels_become_square(tmp_path: Path, sar: str) -> None:
    """Of 720x576 with pixels of 16:11, 1047x576 is shown, of which a wide video uses the middle."""
    filters = f"drawbox=x=0:y=0:w=iw/2:h=ih:color=blue:t=fill,setsar={sar},format=yuv444p"
    encode(RED, "-vf", filters, "-c:v", "libx264", "-preset", "ultrafast", size="720x576")(tmp_path / "b.mp4")
    whole = next(read_clip(tmp_path / "b.mp4", 1, Fit(800, 800, crop=False)))
    numerator, _, denominator = sar.partition("/")
    aspect = int(numerator) / int(denominator or 1)
    assert whole.shape[1] / whole.shape[0] == pytest.approx(720 * aspect / 576, rel=0.01)
    cut = FIT.cut(next(read_clip(tmp_path / "b.mp4", 1, FIT)))
    assert cut.shape == (64, 128, 3)
    assert cut[:, :60, 2].min() > 200 and cut[:, 68:, 2].max() < 80  # still half and half
