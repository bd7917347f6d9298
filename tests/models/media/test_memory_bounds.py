"""Test that every accepted picture or clip is read within its predicted memory; others are refused before that.

Each is read in a process of its own, whose memory is measured from outside.
"""

from __future__ import annotations

import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from PIL import Image

from ltx_models.errors import MediaError
from ltx_models.media.fit import Fit
from ltx_models.media.headers import check_picture, read_header
from ltx_models.media.pictures import read_picture
from ltx_models.memory import READING_BYTES
from tests.models.media.media_files import (
    chunk,
    claim_size,
    compressed_text,
    run_ffmpeg,
    write_clip,
    write_noise,
    write_picture,
    write_png,
)

READ = """
import sys
from ltx_models.errors import MediaError
from ltx_models.pipeline.conditioning_pixels import conditioning_pixels
from ltx_models.request import ConditioningItem, GenerationRequest
from ltx_models.families.variants import find_variant
import PIL.JpegImagePlugin, PIL.PngImagePlugin, PIL.WebPImagePlugin
kind, path, width, height, frames = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
request = GenerationRequest(prompt="x", width=width, height=height, num_frames=frames, frame_rate=30)
request = request.resolve(find_variant("pocket"))
part = {"start": 0.0, "stop": frames / 30, "strength": 0.9} if kind == "video" and frames == 9 else {}
item = ConditioningItem(kind=kind, source=path, **part)
print("ready", flush=True)
sys.stdin.readline()
try:
    print("shape", *conditioning_pixels(item, request).shape)
except MediaError as error:
    print(error)
"""


def read_apart(kind: str, path: Path, size: tuple[int, int] = (768, 512), frames: int = 9) -> tuple[str, int]:
    """Return the output of a process that reads the file, and how many bytes it and ffmpeg took."""
    command = [sys.executable, "-c", READ, kind, str(path), *map(str, (*size, frames))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        watched = psutil.Process(process.pid)
        before = watched.memory_info().rss
        process.stdin.write("\n")
        process.stdin.flush()
        peak = 0
        while process.poll() is None:
            peak = max(peak, memory_of(watched) - before)
            time.sleep(0.003)  # so that it is not this process that keeps a processor busy
        said = process.stdout.read().strip()
    own_frames = frames * size[0] * size[1] * 3 * 4 if kind == "video" else 0
    return said, peak - own_frames


def memory_of(process: psutil.Process) -> int:
    try:
        # Before it has become ffmpeg, a child is a copy of its parent, which takes nothing.
        children = [child for child in process.children() if child.name().startswith("ffmpeg")]
        return sum(each.memory_info().rss for each in (process, *children))
    except psutil.Error:
        return 0


def png(size: tuple[int, int], colours: int = 2, bits: int = 8, **options: object) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        """Make large files here, not when this module is imported."""
        made = {name: value() if callable(value) else value for name, value in options.items()}
        return write_png(path.with_suffix(".png"), size, colours, bits, **made)  # type: ignore[arg-type]

    return write


def picture(suffix: str, size: tuple[int, int], mode: str = "RGB", **options: object) -> Callable[[Path], Path]:
    return lambda path: write_picture(path.with_suffix(suffix), size, mode, **options)


def animated(suffix: str, size: tuple[int, int], frames: int) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        images = [Image.new("RGB", size, (number % 256, number // 256, 9)) for number in range(frames)]
        return write_picture(
            path.with_suffix(suffix), size, save_all=True, append_images=images, lossless=True, method=0
        )

    return write


def clip(suffix: str, size: str, *codec: str, **options: int) -> Callable[[Path], Path]:
    return lambda path: write_clip(path.with_suffix(suffix), size, *codec, **options)  # type: ignore[arg-type]


MP80, MP57, MP50, MP100, MP200 = (10_000, 8_000), (10_000, 5_700), (10_000, 5_000), (12_500, 8_000), (20_000, 10_000)
FAST = ("-preset", "ultrafast", "-pix_fmt", "yuv420p")
ACCEPTED: dict[str, Callable[[Path], Path]] = {
    "PNG, 20 megapixels": png((5_000, 4_000)),
    "PNG, 80 megapixels": png(MP80),
    "PNG, 57 megapixels, just within Pillow": png(MP57),
    "PNG, interlaced": png(MP50, interlaced=True),
    "PNG, 16 bits": png(MP57, bits=16),
    "PNG, palette": png(MP200, 3),
    "PNG, transparency": png(MP57, 6),
    "PNG, wide": png((65_535, 1_200)),
    "PNG, a row": png((65_500, 1)),
    "PNG, a column": png((1, 65_500)),
    "PNG, a pixel": png((1, 1)),
    "PNG, text of a megabyte": png((640, 480), before=lambda: compressed_text(b"zTXt", 1_000_000)),
    "PNG, text of a megabyte at the end": png((640, 480), after=lambda: compressed_text(b"iTXt", 1_000_000)),
    "PNG, text of 100 megabytes": png((64, 64), before=lambda: compressed_text(b"zTXt", 100_000_000)),
    "PNG, a profile of 100 megabytes": png((64, 64), before=lambda: compressed_text(b"iCCP", 100_000_000)),
    "PNG, a private chunk": png(MP50, before=lambda: chunk(b"prVt", bytes(60_000_000))),
    "PNG, a large file": lambda path: write_noise(path.with_suffix(".png"), (6_700, 8_000)),
    "PNG, frames": animated(".png", (64, 64), 1_000),
    "JPEG, 200 megapixels": picture(".jpg", (16_320, 12_240)),
    "JPEG, CMYK": picture(".jpg", MP100, "CMYK"),
    "JPEG, panorama": picture(".jpg", (65_500, 3_800)),
    "JPEG, progressive": picture(".jpg", (9_400, 7_000), progressive=True),
    "JPEG, progressive, panorama": picture(".jpg", (30_000, 1_900), progressive=True),
    "JPEG, a pixel": picture(".jpg", (1, 1)),
    "WebP": picture(".webp", (8_900, 8_900), quality=50, method=0),
    "WebP, transparency": picture(".webp", (7_700, 7_700), "RGBA", quality=50, method=0),
    "WebP, lossless": picture(".webp", (7_000, 7_000), lossless=True, method=0),
    "WebP, 12 megapixels": picture(".webp", (4_000, 3_000), lossless=True, method=0),
    "WebP, frames": animated(".webp", (3_400, 3_400), 2),
}
SLOW: dict[str, Callable[[Path], Path]] = {
    "PNG, many texts, read by ffmpeg": png(MP80, before=lambda: 20 * compressed_text(b"iTXt", 300_000_000)),
    "PNG, 80 megapixels, interlaced": png(MP80, interlaced=True),
    "PNG, grey": png(MP200, 0),
    "PNG, grey, interlaced": png(MP200, 0, interlaced=True),
    "PNG, grey, 16 bits": png(MP100, 0, 16),
    "PNG, a bit": png(MP200, 0, 1),
    "PNG, palette of two": png(MP200, 3, 1),
    "PNG, grey with transparency": png(MP100, 4),
    "PNG, grey with transparency, 16 bits": png(MP50, 4, 16),
    "PNG, transparency, 16 bits": png(MP50, 6, 16),
    "PNG, tall": png((1_200, 65_535)),
    "JPEG, grey": picture(".jpg", MP200, "L"),
    "JPEG, progressive, whole colours": picture(".jpg", (6_660, 4_990), progressive=True, subsampling=0),
}


@pytest.mark.lane("models")
@pytest.mark.parametrize("kind", [*ACCEPTED, *(pytest.param(kind, marks=pytest.mark.lane("slow")) for kind in SLOW)])
def test_a_picture_that_is_accepted_is_read_within_the_bound(tmp_path: Path, kind: str) -> None:
    path = {**ACCEPTED, **SLOW}[kind](tmp_path / "picture")
    assert path.stat().st_size < 64_000_000
    said, grown = read_apart("image", path)
    assert said == "shape 1 512 768 3"
    assert grown <= READING_BYTES


@pytest.mark.lane("models")
def test_the_largest_video_takes_no_more(tmp_path: Path) -> None:
    said, grown = read_apart("image", write_png(tmp_path / "picture.png", MP50), (2048, 2048))
    assert said == "shape 1 2048 2048 3"
    assert grown <= READING_BYTES


CLIPS: dict[str, Callable[[Path], Path]] = {
    "H.264, 4K": clip(".mp4", "3840x2160", "-c:v", "libx264", *FAST, "-bf", "3"),
    "H.265, 4K, 10 bits": clip(
        *(".mp4", "3840x2160", "-c:v", "libx265", "-preset", "ultrafast", "-pix_fmt", "yuv420p10le"),
        *("-x265-params", "log-level=none"),
    ),
    "GIF, 12 megapixels": clip(".gif", "4000x3000", colour="color"),  # type: ignore[arg-type]
    "odd": clip(".mkv", "161x97", "-c:v", "ffv1"),
}


SLOW_CLIPS: dict[str, Callable[[Path], Path]] = {
    "ProRes, 4K": clip(".mov", "3840x2160", "-c:v", "prores_ks", "-profile:v", "3"),
    "VP9, 4K": clip(".webm", "3840x2160", "-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8"),
}


@pytest.mark.lane("models")
@pytest.mark.parametrize("kind", [*CLIPS, *(pytest.param(kind, marks=pytest.mark.lane("slow")) for kind in SLOW_CLIPS)])
def test_a_clip_that_is_accepted_is_read_within_the_bound(tmp_path: Path, kind: str) -> None:
    said, grown = read_apart("video", {**CLIPS, **SLOW_CLIPS}[kind](tmp_path / "clip"), (384, 256))
    assert said == "shape 9 256 384 3"
    assert grown <= READING_BYTES


TOO_LARGE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "PNG": (png((13_350, 13_330)), "13350x13330, 178 megapixels; at most 80 megapixels of a PNG"),
    "PNG, 16 bits": (png((8_000, 8_000), bits=16), "at most 57 megapixels"),
    "PNG, grey": (png((20_000, 10_010), 0), "at most 200 megapixels of a grey PNG"),
    "PNG, a long row": (png((200_000, 1)), "200000x1, .*65,535 pixels a side"),
    "JPEG, progressive": (picture(".jpg", MP80, progressive=True), "at most 67 megapixels of a progressive JPEG"),
    "WebP, lossless": (picture(".webp", (16_383, 3_100), lossless=True, method=0), "at most 50 megapixels"),
    "WebP, frames": (animated(".webp", (4_000, 3_100), 2), "at most 12 megapixels of an? animated WebP"),
}


@pytest.mark.lane("models")
@pytest.mark.parametrize("kind", TOO_LARGE)
def test_a_picture_that_is_too_large_is_refused(tmp_path: Path, kind: str) -> None:
    write, words = TOO_LARGE[kind]
    path = write(tmp_path / "picture")
    fit = Fit(768, 512, crop=True)
    with pytest.raises(MediaError, match=words) as refusal:
        read_picture(path, fit)
    assert str(refusal.value).startswith(f"{path} is ")
    assert "\n" not in str(refusal.value)
    if "megapixels" in words:  # the client refuses it in the same words
        with path.open("rb") as file, pytest.raises(MediaError, match=words):
            check_picture(file, path)
    said, grown = read_apart("image", path)
    assert said == str(refusal.value)
    assert grown <= READING_BYTES / 3


def test_a_picture_of_another_size_than_it_says_is_refused(tmp_path: Path) -> None:
    """Pillow believes a second header."""
    second = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 6, 0, 0, 0))
    said, grown = read_apart("image", write_png(tmp_path / "picture.png", (64, 64), before=second))
    assert "shape" not in said
    assert grown <= READING_BYTES


def test_what_an_iphones_programs_hold_of_a_png_has_no_size(tmp_path: Path) -> None:
    """Another part is where a PNG has its size."""
    data = write_png(tmp_path / "a.png", (64, 64)).read_bytes()
    (tmp_path / "a.png").write_bytes(data[:8] + chunk(b"CgBI", bytes(4)) + data[8:])
    with pytest.raises(MediaError, match="its part b'CgBI' is unknown"):
        read_picture(tmp_path / "a.png", Fit(64, 64, crop=True))


def test_a_header_that_is_cut_off_says_nothing(tmp_path: Path) -> None:
    files = [
        write_png(tmp_path / "a.png", (64, 64)),
        *(write_picture(tmp_path / name, (64, 64)) for name in ("a.jpg", "a.webp")),
        write_picture(tmp_path / "alpha.webp", (64, 64), "RGBA"),
    ]
    for path in files:
        content = path.read_bytes()
        with path.open("rb") as file:
            header = read_header(file)
        assert header is not None
        assert (header.width, header.height) == (64, 64)
        for length in range(min(len(content), 300)):
            path.write_bytes(content[:length])
            with path.open("rb") as file:
                assert read_header(file) in (None, header)


def test_a_jpeg_whose_colours_come_one_after_another_is_held_whole_too(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "a.jpg", (640, 480), subsampling=0)
    content = path.read_bytes()
    assert content.count(b"\xff\xda\x00\x0c\x03") == 1  # the first scan has all three colours
    path.write_bytes(content.replace(b"\xff\xda\x00\x0c\x03", b"\xff\xda\x00\x0c\x01"))
    with path.open("rb") as file:
        header = read_header(file)
    assert header is not None
    assert header.megapixels == pytest.approx(33, abs=0.5)
    assert header.kept == 640 * 480 * 3 * 2


REFUSED_CLIPS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "GIF that says 30,000x30,000": (
        lambda path: claim_size(write_clip(path.with_suffix(".gif"), "64x64", colour="color"), (30_000, 30_000)),
        "is too large: it is 30000x30000, and at most 140 megapixels a frame",
    ),
    "many reference frames": (
        clip(".mp4", "3840x2160", "-c:v", "libx264", *FAST[:3], "yuv420p10le", "-refs", "16", frames=25),
        "is too large: it takes more than 300 MB to decode",
    ),
    # A frame of it is 576 MB: whatever the threads do, this is over the bound for a long while.
    "96 megapixels, 10 bits": (
        clip(".mov", "12000x8000", "-c:v", "prores_ks", "-profile:v", "4", frames=1),
        "is too large: it takes more than 300 MB to decode",
    ),
    "sound alone": (
        lambda path: (run_ffmpeg("-f", "lavfi", "-i", "sine=d=0.1", f"{path}.mp4"), path.with_suffix(".mp4"))[1],
        "cannot be read: it has no frames",
    ),
}


@pytest.mark.lane("models")
@pytest.mark.parametrize("kind", REFUSED_CLIPS)
def test_a_clip_that_is_too_large_is_refused_in_a_sentence(tmp_path: Path, kind: str) -> None:
    write, words = REFUSED_CLIPS[kind]
    said, grown = read_apart("video", write(tmp_path / "clip"), (64, 64), frames=25)
    assert words in said
    assert "\n" not in said
    assert grown <= 1.3 * READING_BYTES  # it is noticed a little later
