"""Test how pictures and clips are cropped, scaled and rotated while they are read, and the progress of that."""

from __future__ import annotations

import dataclasses
import itertools
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ltx_models.errors import MediaError, VideoError
from ltx_models.events import InputRead, StageBegan
from ltx_models.families.variants import find_variant
from ltx_models.media import ffmpeg, pictures
from ltx_models.media.clips import read_clip
from ltx_models.media.fit import Fit
from ltx_models.media.pictures import read_picture
from ltx_models.pipeline.conditioning_pixels import conditioning_pixels, read_item
from ltx_models.pipeline.text_to_video import LTXPipeline
from ltx_models.request import ConditioningItem, GenerationRequest
from ltx_models.video import write_mp4
from tests.models.media.media_files import run_ffmpeg, write_clip, write_png

REQUEST = GenerationRequest(prompt="x", width=64, height=32, num_frames=25, frame_rate=24, num_steps=1, seed=1)
FIT = Fit(64, 32, crop=True)


def photograph(width: int, height: int) -> Image.Image:
    """Return something smooth, with all of a photograph's brightness."""
    small = np.random.default_rng(3).integers(0, 256, (height // 12, width // 12, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def scaled_in_floats(image: Image.Image, fit: Fit, size: tuple[int, int]) -> np.ndarray:
    bands = image.crop(fit.box(*image.size)).split()
    bands = [band.convert("F").resize(size, Image.Resampling.BILINEAR) for band in bands]
    return np.stack([np.asarray(band) for band in bands], axis=-1)


@pytest.mark.parametrize("strip", [2_000, 1_000_000])
def test_scaling_whole_numbers_strip_by_strip_is_scaling_floats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strip: int
) -> None:
    monkeypatch.setattr(pictures, "STRIP_PIXELS", strip)
    image = photograph(731, 517)
    image.save(tmp_path / "photo.png")
    read = read_picture(tmp_path / "photo.png", FIT)
    assert read.shape == (64, 128, 3)
    assert np.abs(read - scaled_in_floats(image, FIT, (128, 64))).max() <= 1


@pytest.mark.parametrize("size", [(731, 517), (300, 60), (60, 300), (140, 60), (60, 140), (96, 36)])
def test_a_clip_is_cut_and_scaled_as_a_picture_is(tmp_path: Path, size: tuple[int, int]) -> None:
    """Only the rounding of ffmpeg's scaler differs."""
    image = photograph(*size)
    image.save(tmp_path / "photo.png")
    run_ffmpeg("-i", str(tmp_path / "photo.png"), "-c:v", "ffv1", "-pix_fmt", "gbrp", str(tmp_path / "clip.mkv"))
    (frame,) = read_clip(tmp_path / "clip.mkv", 1, FIT)
    difference = np.abs(FIT.cut(frame).astype(int) - read_picture(tmp_path / "photo.png", FIT))
    assert difference[2:-2, 2:-2].max() <= 1
    assert difference.max() <= 6  # what lies beyond an edge is taken to be something else


def test_a_large_png_that_ffmpeg_reads_is_as_pillow_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("photo.png", "photo.webp"):
        photograph(731, 517).save(tmp_path / name, lossless=True, exif=exif)
        by_pillow = read_picture(tmp_path / name, FIT)
        with monkeypatch.context() as patched:
            patched.setattr(pictures, "PILLOW_BYTES", 0)
            by_ffmpeg = read_picture(tmp_path / name, FIT)
        assert by_ffmpeg.shape == by_pillow.shape == (64, 128, 3)
        difference = np.abs(by_ffmpeg.astype(int) - by_pillow)
        assert difference.mean() < 0.5
        assert difference.max() <= 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_a_large_picture_is_cut_as_it_is_shown(tmp_path: Path, orientation: int, suffix: str) -> None:
    shown = Image.new("RGB", (800, 1_600), "black")
    shown.paste("red", (0, 600, 400, 800))  # in the middle of what a wide video shows, above on the left
    stored = shown
    for step in {2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}.get(orientation, []):
        stored = shown.transpose(Image.Transpose(step))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / f"photo{suffix}", exif=exif, lossless=True, quality=95)
    read = read_picture(tmp_path / f"photo{suffix}", FIT).astype(int)
    assert read.shape == (64, 128, 3)
    assert read[4:28, 4:60, 0].min() > 200
    assert max(read[36:].max(), read[:, 68:].max()) < 60


def test_what_is_small_enough_is_read_as_it_is(tmp_path: Path) -> None:
    image = photograph(128, 64)
    image.save(tmp_path / "photo.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "photo.png", FIT), np.asarray(image))
    frames = [np.asarray(image)] * 2
    write_mp4(frames, tmp_path / "clip.mp4", 24)
    whole, fitted = (list(read_clip(tmp_path / "clip.mp4", 9, fit)) for fit in (None, FIT))
    np.testing.assert_array_equal(whole, fitted)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 700), (700, 1), (3, 2), (129, 65), (127, 800)])
@pytest.mark.parametrize("crop", [True, False])
def test_any_size_becomes_the_videos(tmp_path: Path, size: tuple[int, int], crop: bool) -> None:
    write_png(tmp_path / "picture.png", size)
    clip = ["-c:v", "ffv1", "-level", "1", "-pix_fmt", "yuv420p", str(tmp_path / "clip.mkv")]
    run_ffmpeg("-i", str(tmp_path / "picture.png"), *clip)
    request = REQUEST.resolve(find_variant("pocket"))
    for kind, name in (("image", "picture.png"), ("video", "clip.mkv")):
        item = ConditioningItem(kind=kind, source=str(tmp_path / name), crop=crop)  # type: ignore[arg-type]
        pixels = conditioning_pixels(item, request)
        assert pixels.shape == (1, 32, 64, 3)
        assert 0 <= pixels.min() <= pixels.max() <= 1


def test_a_clip_whose_frames_change_their_size(tmp_path: Path) -> None:
    parts = [tmp_path / "small.mkv", tmp_path / "large.mkv"]
    for part, size in zip(parts, ("96x64", "1280x720"), strict=True):
        write_clip(part, size, "-c:v", "mjpeg", frames=9)
    (tmp_path / "list").write_text("".join(f"file {part}\n" for part in parts))
    run_ffmpeg("-f", "concat", "-safe", "0", "-i", str(tmp_path / "list"), "-c", "copy", str(tmp_path / "clip.mkv"))
    item = ConditioningItem(kind="video", source=str(tmp_path / "clip.mkv"))
    request = dataclasses.replace(REQUEST, frame_rate=30).resolve(find_variant("pocket"))
    assert conditioning_pixels(item, request).shape == (17, 32, 64, 3)


def test_a_clip_is_turned_as_it_says(tmp_path: Path) -> None:
    write_clip(tmp_path / "flat.mp4", "640x200", "-c:v", "libx264", "-pix_fmt", "yuv420p", frames=1)
    run_ffmpeg("-display_rotation", "90", "-i", str(tmp_path / "flat.mp4"), "-c", "copy", str(tmp_path / "clip.mp4"))
    (frame,) = read_clip(tmp_path / "clip.mp4", 1, Fit(32, 64, crop=False))
    assert frame.shape == (128, 64, 3)


def test_no_more_is_decoded_than_is_needed(tmp_path: Path) -> None:
    """What follows the first frames is damaged, which has no effect."""
    path = write_clip(tmp_path / "clip.mkv", "320x240", "-c:v", "ffv1", frames=60)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + b"\xff" * (len(content) // 2))
    assert len(list(read_clip(path, 9, FIT))) == 9


def test_reading_tells_how_far_it_is(tmp_path: Path) -> None:
    write_mp4([np.full((32, 64, 3), 90, np.uint8)] * 25, tmp_path / "clip.mp4", 24)
    request = REQUEST.resolve(find_variant("pocket"))
    item = ConditioningItem(kind="video", source=str(tmp_path / "clip.mp4"))
    parts = list(read_item(item, request))
    assert len(parts) == 2 * 17  # each frame when it is read, and when it is prepared
    assert all(0 < earlier < later <= 1 for earlier, later in itertools.pairwise(parts))
    assert parts[-1] == 1


def test_a_render_tells_of_each_picture_and_clip(pocket: LTXPipeline, tmp_path: Path) -> None:
    write_mp4([np.full((32, 64, 3), 90, np.uint8)] * 9, tmp_path / "clip.mp4", 24)
    Image.new("RGB", (64, 32), "red").save(tmp_path / "picture.png")
    items = (
        ConditioningItem(kind="image", source=str(tmp_path / "picture.png")),
        ConditioningItem(kind="video", source=str(tmp_path / "clip.mp4"), frame=8),
    )
    told: list[InputRead] = []
    for event in pocket.stream(dataclasses.replace(REQUEST, conditioning=items)):
        if isinstance(event, StageBegan):
            assert event.stage == "text"
            break
        assert isinstance(event, InputRead)
        told.append(event)
    assert {(event.kind, event.number, event.count) for event in told} == {("image", 1, 2), ("video", 2, 2)}
    assert [event.part for event in told if event.number == 1] == [0, 1]
    assert len([event for event in told if event.number == 2]) > 9


def stand_in(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_an_ffmpeg_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "clip.mkv", "64x32", "-c:v", "ffv1")
    hanging = stand_in(tmp_path / "hangs", f"echo $$ > {tmp_path}/pid; exec sleep 60")
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", hanging)
    monkeypatch.setattr(ffmpeg, "STALL_TIMEOUT", 0.5)
    with pytest.raises(MediaError, match=r"clip\.mkv cannot be read: ffmpeg made no progress for 0\.5 s"):
        list(read_clip(path, 9, FIT))
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    with pytest.raises(VideoError, match=r"ffmpeg did not end within 0\.5 s"):
        ffmpeg.run([], b"")


def test_frames_that_come_slowly_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "clip.mkv", "64x32", "-c:v", "ffv1")
    frame = r"printf 'P6\n1 1\n255\nabc'; sleep 2"
    slow = stand_in(tmp_path / "slow", "\n".join([frame] * 4))
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", slow)
    monkeypatch.setattr(ffmpeg, "STALL_TIMEOUT", 7)  # less than all four take
    assert [frame.tolist() for frame in read_clip(path, 9)] == [[[[97, 98, 99]]]] * 4


def test_a_clip_that_takes_too_much_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "clip.mkv", "1920x1080", "-c:v", "ffv1")
    monkeypatch.setattr(ffmpeg, "MEMORY", 20_000_000)
    with pytest.raises(MediaError, match=r"clip\.mkv is too large: it takes more than 20 MB to decode"):
        list(read_clip(path, 9, FIT))


def test_the_frames_of_an_abandoned_clip_are_not_waited_for(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mkv", "640x480", "-c:v", "ffv1", frames=60)
    reading: Any = read_clip(path, 60, FIT)
    next(reading)
    reading.close()
