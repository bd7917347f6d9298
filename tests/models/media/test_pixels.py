"""Test pictures and clips: what is read and refused, and the preprocessing against values computed otherwise."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ltx_models.errors import MediaError, VideoError
from ltx_models.families.variants import find_variant
from ltx_models.media.clips import read_clip
from ltx_models.media.fit import Fit
from ltx_models.media.pictures import read_picture
from ltx_models.pipeline.conditioning_pixels import (
    conditioning_pixels,
    gaussian_blur,
    prepare_frame,
    resize_bilinear,
    through_h264,
)
from ltx_models.request import ConditioningItem, GenerationRequest
from ltx_models.video import write_mp4

OFF = {"crop": False, "blur": False, "compress": False}
WHOLE = Fit(1024, 1024, crop=False)


def gradient(height: int = 48, width: int = 64) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=-1).astype(np.uint8)


def resolved(**values: Any) -> GenerationRequest:
    return GenerationRequest(prompt="a cat", width=64, height=32, num_frames=25, frame_rate=24, **values).resolve(
        find_variant("pocket")
    )


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    write_mp4([np.full((32, 64, 3), 8 * index, np.uint8) for index in range(21)], path, 24)
    return path


@pytest.mark.parametrize("name", ["PNG", "WEBP"])
def test_a_picture_is_read(tmp_path: Path, name: str) -> None:
    Image.fromarray(gradient()).save(tmp_path / "picture", name, lossless=True)
    np.testing.assert_array_equal(read_picture(tmp_path / "picture", WHOLE), gradient())


def test_a_photograph_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    image = Image.fromarray(gradient())
    exif = image.getexif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    image.save(tmp_path / "photo.jpg", quality=100, subsampling=0, exif=exif)
    read = read_picture(tmp_path / "photo.jpg", WHOLE)
    assert read.shape == (64, 48, 3)
    assert np.abs(read.astype(int) - np.rot90(gradient(), -1)).mean() < 3


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    name = "JPEG" if mode == "CMYK" else "PNG"
    Image.fromarray(gradient()).convert(mode).save(tmp_path / "picture", name)
    read = read_picture(tmp_path / "picture", WHOLE)
    assert read.shape == (48, 64, 3)
    assert read.dtype == np.uint8


def test_sixteen_bits_are_not_clipped(tmp_path: Path) -> None:
    grey = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "deep.png", WHOLE)[..., 0], np.arange(256).reshape(16, 16))


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(gradient()).save(buffer, "PNG")
    return buffer.getvalue()


def enormous_png() -> bytes:
    """Return a header with a size of 60,000x60,000."""
    data = bytearray(png())
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (png()[:-40], "damaged or cut off"),
        (b"", "PNG, JPEG and WebP are"),
        (b"Not a picture, but some text.", "PNG, JPEG and WebP are"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "HEIC or AVIF picture"),
        (b"GIF89a" + b"\x00" * 30, "PNG, JPEG and WebP are"),
    ],
)
def test_what_is_not_a_picture_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "picture.png").write_bytes(content)
    with pytest.raises(MediaError, match=words) as error:
        read_picture(tmp_path / "picture.png", WHOLE)
    assert "\n" not in str(error.value)


def test_an_enormous_picture_is_refused_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(enormous_png())
    with pytest.raises(
        MediaError, match=r"bomb.png is too large: it is 60000x60000, 3,600 megapixels; at most 80 megapixels"
    ):
        read_picture(tmp_path / "bomb.png", WHOLE)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"nowhere\.png cannot be read: No such file"):
        read_picture(tmp_path / "nowhere.png", WHOLE)
    with pytest.raises(MediaError, match=r"nowhere\.mp4 cannot be read: No such file"):
        list(read_clip(tmp_path / "nowhere.mp4", 9))


def test_a_clip_is_read_from_its_beginning(clip: Path) -> None:
    frames = list(read_clip(clip, 9))
    assert len(frames) == 9
    assert [frame.shape for frame in frames] == [(32, 64, 3)] * 9
    np.testing.assert_allclose([frame.mean() for frame in frames], 8 * np.arange(9), atol=2)


def test_a_clip_shorter_than_asked_gives_what_it_has(clip: Path) -> None:
    assert len(list(read_clip(clip, 1_000))) == 21


def test_reading_a_clip_may_stop_early(clip: Path) -> None:
    frames = read_clip(clip, 20)
    next(frames)
    frames.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "is not a clip in a supported format"),
        (b"#EXTM3U\n", "is not a clip in a supported format"),
        (png(), "is not a clip in a supported format"),
        (b"\x00\x00\x00\x18ftypisom" + b"\x00" * 100, "damaged or cut off, and cannot be read"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "is not a clip in a supported format"),
    ],
)
def test_what_is_not_a_clip_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "clip.mp4").write_bytes(content)
    with pytest.raises(MediaError, match=words):
        list(read_clip(tmp_path / "clip.mp4", 9))


def test_a_truncated_clip_is_refused(tmp_path: Path, clip: Path) -> None:
    """Its index is at the beginning, so some frames may still be read; of the first kilobyte none can."""
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:1_000])
    with pytest.raises(MediaError, match="damaged or cut off, and cannot be read"):
        list(read_clip(tmp_path / "cut.mp4", 9))


@pytest.mark.parametrize(("frame", "count", "first"), [(0, 17, 4), (8, 17, 0), (16, 9, 0)])
def test_a_clip_is_cut_to_what_the_video_holds(clip: Path, frame: int, count: int, first: int) -> None:
    """It is cut at the beginning, to its end, and so that something remains to render."""
    item = ConditioningItem(kind="video", source=str(clip), frame=frame, **OFF)
    pixels = conditioning_pixels(item, resolved())
    assert pixels.shape == (count, 32, 64, 3)
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels.mean((1, 2, 3)) * 255, 8 * np.arange(first, first + count), atol=2)


def test_a_picture_becomes_one_frame(tmp_path: Path) -> None:
    Image.fromarray(gradient(96, 90)).save(tmp_path / "picture.png")
    item = ConditioningItem(kind="image", source=str(tmp_path / "picture.png"))
    pixels = conditioning_pixels(item, resolved())
    assert pixels.shape == (1, 32, 64, 3)
    assert 0 <= pixels.min() < pixels.max() <= 1


@pytest.mark.parametrize(
    ("size", "aspect", "rows", "columns"),
    [((100, 101), 1.0, (0, 100), (0, 100)), ((30, 100), 1.0, (0, 30), (35, 65)), ((100, 30), 1.5, (40, 60), (0, 30))],
)
def test_crop(size: tuple[int, int], aspect: float, rows: tuple[int, int], columns: tuple[int, int]) -> None:
    frame = gradient(*size)
    fit = Fit(round(aspect * 64), 64, crop=True)
    np.testing.assert_array_equal(fit.cut(frame), frame[slice(*rows), slice(*columns)])


def test_blur_is_a_mirrored_gaussian_of_three() -> None:
    pixels = np.zeros((4, 5, 3), np.float32)
    pixels[1, 2] = 1
    side = np.exp(-0.5) / (1 + 2 * np.exp(-0.5))
    kernel = np.outer([side, 1 - 2 * side, side], [side, 1 - 2 * side, side])
    blurred = gaussian_blur(pixels)
    np.testing.assert_allclose(blurred[1:3, 1:4, 0], kernel[1:], rtol=1e-5)
    # Row 0 sees row 1 twice: from below, and mirrored from above.
    np.testing.assert_allclose(blurred[0, 1:4, 0], 2 * kernel[0], rtol=1e-5)
    np.testing.assert_allclose(gaussian_blur(np.full((3, 3, 3), 0.4, np.float32)), 0.4, rtol=1e-6)


def test_resizing_reads_between_the_nearest_pixels_and_does_not_smooth() -> None:
    row = np.array([0, 1, 10, 11], np.float32)[None, :, None].repeat(3, axis=2)
    # Halved: the middles of pixels 0 and 1, and of 2 and 3.
    np.testing.assert_allclose(resize_bilinear(row, 2, 1)[0, :, 0], [0.5, 10.5])
    # To a third of nine: exactly every third pixel, whatever lies between.
    nine = np.arange(9, dtype=np.float32)[None, :, None] ** 2
    np.testing.assert_allclose(resize_bilinear(nine, 3, 1)[0, :, 0], [1, 16, 49])
    # Doubled: a quarter and three quarters, the edges held.
    two = np.array([0, 1], np.float32)[None, :, None]
    np.testing.assert_allclose(resize_bilinear(two, 4, 1)[0, :, 0], [0, 0.25, 0.75, 1])
    np.testing.assert_allclose(resize_bilinear(two.swapaxes(0, 1), 1, 4)[:, 0, 0], [0, 0.25, 0.75, 1])


def test_compression_leaves_an_even_picture_that_looks_alike() -> None:
    pixels = gradient(33, 47).astype(np.float32) / 255
    compressed = through_h264(pixels)
    assert compressed.shape == (32, 46, 3)
    difference = np.abs(compressed - pixels[:32, :46])
    assert 0 < difference.mean() < 0.1
    np.testing.assert_array_equal(compressed, through_h264(pixels))


def test_each_step_can_be_turned_off() -> None:
    frame = gradient(32, 64)
    plain = prepare_frame(frame, 64, 32, blur=False, compress=False)
    np.testing.assert_allclose(plain, frame / 255, rtol=1e-6)
    for switches in ({"blur": True, "compress": False}, {"blur": False, "compress": True}):
        assert np.abs(prepare_frame(frame, 64, 32, **switches) - plain).max() > 1e-3


def test_without_the_crop_a_picture_is_stretched(tmp_path: Path) -> None:
    Image.fromarray(gradient(96, 64)).save(tmp_path / "picture.png")
    stretched, cut = (
        conditioning_pixels(
            ConditioningItem(kind="image", source=str(tmp_path / "picture.png"), **{**OFF, "crop": crop}), resolved()
        )
        for crop in (False, True)
    )
    assert stretched.shape == cut.shape
    assert stretched[0, :, :, 1].max() - stretched[0, :, :, 1].min() > 0.9  # all rows, from black to white
    assert cut[0, :, :, 1].max() - cut[0, :, :, 1].min() < 0.4


def test_media_loads_no_mlx() -> None:
    code = (
        "import sys, ltx_models.pipeline.conditioning_pixels; print('mlx' in sys.modules or 'mlx.core' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("program", "error", "words"),
    [
        ("kill -SEGV $$", VideoError, "exit code -11"),
        ("kill -KILL $$", VideoError, "exit code -9"),
        ("echo 'No space left on device' >&2; exit 1", VideoError, "No space left"),
        ("echo 'Invalid data' >&2; exit 1", MediaError, "Invalid data"),
    ],
)
def test_how_ffmpeg_fails_tells_whether_it_may_be_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, error: type[Exception], words: str
) -> None:
    stand_in = tmp_path / "ffmpeg"
    stand_in.write_text(f"#!/bin/sh\n{program}\n")
    stand_in.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(stand_in))
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"\0\0\0\x18ftypisom" + bytes(100))
    with pytest.raises(error, match=words):
        list(read_clip(clip, 9))


def test_an_ffmpeg_that_is_missing_is_not_the_pictures_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "none"))
    with pytest.raises(VideoError, match="could not be started"):
        through_h264(np.zeros((32, 32, 3), np.float32))
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"\0\0\0\x18ftypisom" + bytes(100))
    with pytest.raises(VideoError, match="could not be started"):
        list(read_clip(clip, 9))
