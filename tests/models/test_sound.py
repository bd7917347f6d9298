"""Test videos with sound, as a player reads them back, and posters."""

from __future__ import annotations

import hashlib
import io
import subprocess
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image, ImageCms

from ltx_models import video
from ltx_models.errors import NotFinite, VideoError
from ltx_models.events import RenderResult
from ltx_models.request import GenerationRequest
from ltx_models.sound import MAX_RATE, MIN_RATE, Sound
from ltx_models.video import SOUND_RATE, add_sound, encode_poster, write_mp4
from tests.clips import read_clip, read_sound, read_streams

PACKET = 1024 / SOUND_RATE
"""Seconds of one packet of AAC."""
FRAMES = np.random.default_rng(7).integers(0, 256, (25, 32, 64, 3), np.uint8)


def tones(seconds: float, rate: int = SOUND_RATE, channels: int = 2) -> Sound:
    """Return a tone of its own in each channel."""
    times = np.arange(max(1, round(seconds * rate)))[:, None] / rate
    hertz = np.array([440.0, 880.0])[:channels]
    return Sound((np.sin(2 * np.pi * hertz * times) / 2).astype(np.float32), rate)


def loudest(samples: np.ndarray, rate: int) -> int:
    """Return the frequency of which there is most, in Hz."""
    return round(float(np.argmax(np.abs(np.fft.rfft(samples)))) * rate / len(samples))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.mp4"


@pytest.mark.parametrize(
    ("seconds", "frame_rate"),
    [(0.01, 24.0), (1.0, 23.976), (25 / 24, 24.0), (3.0, 30.0)],
    ids=["tiny", "shorter", "fitting", "longer"],
)
def test_both_streams_are_exactly_as_long_as_the_video(path: Path, seconds: float, frame_rate: float) -> None:
    write_mp4(FRAMES, path, frame_rate, tones(seconds))
    length = len(FRAMES) / frame_rate
    streams = read_streams(path)
    assert set(streams) == {"video", "audio"}
    assert streams["video"].packets == len(FRAMES)
    assert streams["video"].start == 0
    assert streams["video"].end == pytest.approx(length, abs=1e-4)
    assert streams["audio"].end == pytest.approx(length, abs=PACKET / 2)
    samples, rate = read_sound(path)
    assert (len(samples), rate) == (round(length * SOUND_RATE), SOUND_RATE)
    said = round(min(seconds, length) * SOUND_RATE)
    assert np.abs(samples[:said]).max() > 0.3
    if said + 4096 < len(samples):
        assert np.abs(samples[said + 4096 :]).max() < 0.01, "silence follows what is shorter"


@pytest.mark.lane("models")
@pytest.mark.parametrize("count", [1, 9, 121])
def test_videos_of_all_lengths(path: Path, count: int) -> None:
    write_mp4(np.zeros((count, 32, 32, 3), np.uint8), path, 24.0, tones(1.0))
    assert read_streams(path)["video"].packets == count
    assert len(read_sound(path)[0]) == round(count / 24 * SOUND_RATE)


@pytest.mark.lane("models")
@pytest.mark.parametrize("rate", [MIN_RATE, 16_000, 22_050, 24_000, 44_100, SOUND_RATE, 96_000, MAX_RATE])
@pytest.mark.parametrize("channels", [1, 2], ids=["mono", "stereo"])
def test_any_rate_is_resampled(path: Path, rate: int, channels: int) -> None:
    write_mp4(FRAMES, path, 24.0, tones(25 / 24, rate, channels))
    samples, written = read_sound(path)
    assert (samples.shape, written) == ((50_000, channels), SOUND_RATE)
    heard = [loudest(samples[:SOUND_RATE, channel], SOUND_RATE) for channel in range(channels)]
    assert heard == [440, 880][:channels]
    assert np.sqrt((samples[5000:-5000] ** 2).mean()) == pytest.approx(0.5 / np.sqrt(2), abs=0.01)


def test_the_sound_begins_with_the_video(path: Path) -> None:
    """The encoder's own delay is told to players, which leave it out."""
    samples = np.zeros((SOUND_RATE, 1), np.float32)
    samples[24_000:24_100] = 0.9
    write_mp4(FRAMES, path, 24.0, Sound(samples, SOUND_RATE))
    heard, _ = read_sound(path)
    assert abs(int(np.argmax(np.abs(heard[:, 0]))) - 24_050) < 100


def test_the_pictures_are_those_of_the_video_without_sound(tmp_path: Path) -> None:
    write_mp4(FRAMES, tmp_path / "silent.mp4", 24.0)
    write_mp4(FRAMES, tmp_path / "sound.mp4", 24.0, tones(1.0))
    silent, sound = read_clip(tmp_path / "silent.mp4"), read_clip(tmp_path / "sound.mp4")
    assert np.array_equal(silent.frames, sound.frames)
    assert "yuv420p(tv, bt709" in sound.header
    content = (tmp_path / "sound.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["silent.mp4", "sound.mp4"]


def test_without_sound_the_bytes_are_those_of_one_run_of_the_encoder(path: Path) -> None:
    """Written as it always was: one command, whose only input is the frames."""
    write_mp4(FRAMES, path, 24.0)
    alone = path.with_name("alone.mp4")
    command = video._command(64, 32, 24.0, alone)
    assert (command.count("-i"), {"-c:a", "-map", "-af"} & set(command)) == (1, set())
    subprocess.run(command, input=FRAMES.tobytes(), check=True)
    assert path.read_bytes() == alone.read_bytes()
    assert set(read_streams(path)) == {"video"}


def test_the_same_sound_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_mp4(FRAMES, tmp_path / name, 24.0, tones(1.0, 22_050))
    first, second = (hashlib.sha256((tmp_path / name).read_bytes()).digest() for name in ("a.mp4", "b.mp4"))
    assert first == second


def test_what_is_too_loud_is_clipped(path: Path) -> None:
    write_mp4(FRAMES, path, 24.0, Sound(tones(1.0).samples * np.float32(1e30), SOUND_RATE))
    samples, _ = read_sound(path)
    assert np.isfinite(samples).all()
    assert np.sqrt((samples[5000:40_000] ** 2).mean()) == pytest.approx(1, abs=0.1), "two square waves"


GOOD = np.zeros((100, 2), np.float32)
INVALID: dict[str, tuple[Any, Any, str]] = {
    "NaN": (np.full((10, 1), np.nan, np.float32), 48_000, "has NaN or infinite"),
    "infinite": (np.full((10, 1), np.inf, np.float32), 48_000, "has NaN or infinite"),
    "one dimension": (np.zeros(10, np.float32), 48_000, r"shape is \(10,\)"),
    "channels first": (np.zeros((2, 10), np.float32), 48_000, r"shape is \(2, 10\)"),
    "no channel": (np.zeros((10, 0), np.float32), 48_000, r"shape is \(10, 0\)"),
    "no samples": (np.zeros((0, 2), np.float32), 48_000, r"shape is \(0, 2\)"),
    "float64": (np.zeros((10, 2)), 48_000, "float64; use an array of float32"),
    "int16": (np.zeros((10, 2), np.int16), 48_000, "int16; use"),
    "a list": ([[0.0]], 48_000, "list; use"),
    "too slow": (GOOD, MIN_RATE - 1, "rate 7999 is invalid; use"),
    "too fast": (GOOD, MAX_RATE + 1, "rate 192001 is invalid; use"),
    "no whole rate": (GOOD, 44_100.5, "rate 44100.5 is invalid; use"),
    "a switch": (GOOD, True, "rate True is invalid; use"),
    "a negative rate": (GOOD, -48_000, "rate -48000 is invalid; use"),
    "no rate": (GOOD, None, "come together"),
    "no samples, but a rate": (None, 48_000, "come together"),
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_sound_is_refused_in_a_sentence_and_nothing_is_written(path: Path, name: str) -> None:
    samples, rate, why = INVALID[name]
    result = RenderResult(FRAMES, {"video": GOOD}, GenerationRequest(prompt="x", frame_rate=24.0), samples, rate)
    with pytest.raises(NotFinite if "NaN" in why else VideoError, match=why) as refused:
        result.save(path)
    assert "\n" not in str(refused.value)
    assert list(path.parent.iterdir()) == []


def test_a_result_saves_its_sound(path: Path) -> None:
    sound = tones(1.0, 24_000)
    request = GenerationRequest(prompt="x", frame_rate=24.0)
    streams = {"video": np.zeros((1, 4, 2, 2, 3), np.float32), "audio": np.zeros((1, 8, 4), np.float32)}
    RenderResult(FRAMES, streams, request, sound.samples, sound.rate).save(path)
    assert set(read_streams(path)) == {"video", "audio"}


def fail_at_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    command = video._sound_command
    monkeypatch.setattr(
        video, "_sound_command", lambda *args, **named: [*command(*args, **named)[:-1], "/no/where.mp4"]
    )


def test_a_sound_that_cannot_be_encoded_leaves_nothing_or_what_was_there(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mp4(FRAMES, path, 24.0)
    before = path.read_bytes()
    fail_at_sound(monkeypatch)
    with pytest.raises(VideoError, match="No such file"):
        add_sound(path, tones(1.0), 25 / 24)
    assert path.read_bytes() == before
    with pytest.raises(VideoError, match="No such file"):
        write_mp4(FRAMES, path.with_name("new.mp4"), 24.0, tones(1.0))
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="No such file or directory"):
        write_mp4(FRAMES, tmp_path / "absent" / "out.mp4", 24.0, tones(1.0))


def test_ffmpeg_is_missing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mp4(FRAMES, path, 24.0)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: "/nonexistent/ffmpeg")
    with pytest.raises(VideoError, match="could not be started"):
        add_sound(path, tones(1.0), 25 / 24)


def smooth(height: int, width: int) -> np.ndarray:
    """Return a frame such as a video has: gradients, and an edge between two colours."""
    y, x = np.mgrid[0:height, 0:width] / [[[height]], [[width]]]
    frame = np.stack([x, y, 1 - x], -1) * 255
    frame[height // 4 : height // 2, width // 4 : width // 2] = (255, 0, 0)
    return frame.astype(np.uint8)


def test_a_poster_is_the_frame_in_srgb_at_its_own_size() -> None:
    frame = smooth(96, 160)
    poster = Image.open(io.BytesIO(encode_poster(frame)))
    assert (poster.format, poster.mode, poster.size) == ("JPEG", "RGB", (160, 96))
    difference = np.abs(np.asarray(poster, int) - frame)
    assert difference.mean() < 2
    assert difference.max() < 50, "a coloured edge is as sharp as in the frame"
    profile = ImageCms.ImageCmsProfile(io.BytesIO(poster.info["icc_profile"]))
    assert "sRGB" in ImageCms.getProfileDescription(profile)


def test_a_poster_differs_less_from_the_frame_than_the_video(path: Path) -> None:
    """At its quality it is no worse to look at than the video that it stands for."""
    frame = smooth(96, 160)
    write_mp4([frame] * 9, path, 24.0)
    poster = np.asarray(Image.open(io.BytesIO(encode_poster(frame))), int)
    assert np.abs(poster - frame).mean() <= np.abs(read_clip(path).frames[4].astype(int) - frame).mean()


def test_the_same_frame_gives_the_same_poster() -> None:
    frame = smooth(64, 64)
    first = encode_poster(frame)
    video._srgb.cache_clear()
    assert encode_poster(frame) == first
