"""Write videos and posters as an engine does, by the real ffmpeg."""

import errno
import hashlib
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ltx_client.protocol.file_names import POSTER, VIDEO
from ltx_models.errors import FaultKind
from ltx_models.video import write_mp4
from ltx_worker.engine import writer
from ltx_worker.engine.messages import Unwritten, Written
from ltx_worker.engine.writer import VideoWriter
from tests.clips import read_sound, read_streams

COUNT, RATE = 9, 24.0


def film(count=COUNT):
    """Frames that can be told from one another: each has a bright column of its own, on a gradient."""
    y, x = np.mgrid[0:48, 0:96]
    frames = np.stack([np.stack([x * 2, y * 4, np.full_like(x, 90)], -1)] * count).astype(np.uint8)
    for number, frame in enumerate(frames):
        frame[:, number * 8 : number * 8 + 8] = 255
    return frames


def write(folder, frames, audio=None, audio_rate=None, parts=(1, 5)):
    """Write a video in several parts; return what its writer tells."""
    told = []
    video = VideoWriter(folder / VIDEO.local, RATE, len(frames) // 2, told.append)
    for part in np.split(frames, parts):
        video.put(part)
    video.complete(audio, audio_rate)
    video.wait()
    (message,) = told
    return message


def sha256_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("parts", [(), (1, 5), (4,), tuple(range(1, COUNT))], ids=str)
def test_a_poster_is_the_middle_frame(tmp_path, parts):
    frames = film()
    message = write(tmp_path, frames, parts=parts)
    assert isinstance(message, Written)
    assert message.sha256 == sha256_of(tmp_path / VIDEO.local)
    assert message.poster == sha256_of(tmp_path / POSTER.local)
    with Image.open(tmp_path / POSTER.local) as poster:
        assert (poster.format, poster.mode, poster.size) == ("JPEG", "RGB", (96, 48))
        pixels = np.asarray(poster, int)
    differences = [np.abs(pixels - frame).mean() for frame in frames]
    assert int(np.argmin(differences)) == COUNT // 2
    assert differences[COUNT // 2] < 2


def test_a_video_of_one_frame_has_it_as_its_poster(tmp_path):
    assert write(tmp_path, film(1), parts=()).poster == sha256_of(tmp_path / POSTER.local)


def test_without_sound_the_mp4_is_what_the_encoder_writes_of_the_frames(tmp_path):
    message = write(tmp_path, film())
    write_mp4(film(), tmp_path / "alone.mp4", RATE)
    assert message.sha256 == sha256_of(tmp_path / "alone.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["alone.mp4", VIDEO.local, POSTER.local])


def test_sound_that_comes_after_the_frames_is_in_the_video(tmp_path):
    audio = np.zeros((10_000, 2), np.float32)
    audio[2000:] = 0.25
    message = write(tmp_path, film(), audio, 24_000)
    assert message.sha256 == sha256_of(tmp_path / VIDEO.local)
    streams = read_streams(tmp_path / VIDEO.local)
    assert streams["video"].packets == COUNT
    samples, rate = read_sound(tmp_path / VIDEO.local)
    assert (samples.shape, rate) == ((round(COUNT / RATE * 48_000), 2), 48_000)
    assert sorted(path.name for path in tmp_path.iterdir()) == [POSTER.local, VIDEO.local]


@pytest.mark.parametrize(
    ("audio", "rate", "kind"),
    [
        (np.full((9, 1), np.nan, np.float32), 48_000, FaultKind.NUMBERS),
        (np.zeros((9, 3), np.float32), 48_000, FaultKind.FFMPEG),
        (None, 48_000, FaultKind.FFMPEG),
    ],
    ids=["NaN", "three channels", "a rate alone"],
)
def test_invalid_sound_is_told_as_invalid_frames_are(tmp_path, audio, rate, kind):
    message = write(tmp_path, film(), audio, rate)
    assert (type(message), message.kind) == (Unwritten, kind)
    assert message.error.startswith("the sound ")
    assert not (tmp_path / POSTER.local).exists()


def a_full_disk(monkeypatch):
    write_bytes = Path.write_bytes

    def full(path, data):
        write_bytes(path, data[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)


def no_memory(monkeypatch):
    def none(frame):
        raise MemoryError

    monkeypatch.setattr(writer, "encode_poster", none)


def a_broken_pillow(monkeypatch):
    def unexpected(frame):
        raise KeyError("JPEG")

    monkeypatch.setattr(writer, "encode_poster", unexpected)


@pytest.mark.parametrize("broken", [a_full_disk, no_memory, a_broken_pillow])
def test_a_poster_that_cannot_be_made_fails_no_video(tmp_path, monkeypatch, caplog, broken):
    broken(monkeypatch)
    with caplog.at_level(logging.WARNING):
        message = write(tmp_path, film())
    assert (message.poster, message.sha256) == ("", sha256_of(tmp_path / VIDEO.local))
    assert [path.name for path in tmp_path.iterdir()] == [VIDEO.local]
    assert "a poster was left out" in caplog.text


def test_a_video_that_is_stopped_has_no_poster(tmp_path):
    told = []
    video = VideoWriter(tmp_path / VIDEO.local, RATE, 0, told.append)
    video.put(film())
    video.stop()
    video.wait()
    (message,) = told
    assert (type(message), message.kind) == (Unwritten, None)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_at_the_video_is_the_machines_fault(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writer, "add_sound", full)
    message = write(tmp_path, film(), np.zeros((9, 1), np.float32), 48_000)
    assert (type(message), message.kind) == (Unwritten, FaultKind.SPACE)


def test_frames_are_not_kept_for_the_poster(tmp_path):
    """It is one frame's copy: a view would keep the whole video in memory until the next one is written."""
    frames = film()
    told = []
    video = VideoWriter(tmp_path / VIDEO.local, RATE, COUNT // 2, told.append)
    video.put(frames)
    video.complete()
    video.wait()
    assert told[0].poster
    assert video._poster is None
