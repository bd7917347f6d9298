from __future__ import annotations

import io
import os
import subprocess
import threading
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from ltx_models.errors import VideoError
from ltx_models.events import RenderResult
from ltx_models.request import GenerationRequest
from ltx_models.video import encode_jpeg, write_mp4

COLOURS = [
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 0),
    (0, 255, 255),
    (255, 0, 255),
    (255, 255, 255),
    (0, 0, 0),
    (128, 128, 128),
    (200, 50, 120),
]
FRAMES = np.stack([np.full((64, 96, 3), colour, np.uint8) for colour in COLOURS])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.mp4"


def probe(path: Path) -> str:
    """Return ffmpeg's description of the file's only stream."""
    said = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-i", str(path)], capture_output=True, text=True, check=False
    ).stderr
    return next(line for line in said.splitlines() if "Stream #0:0" in line)


def read_back(path: Path, *options: str) -> np.ndarray:
    """Return the frames as a player that follows the tags shows them, (F, 64, 96, 3)."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), *options]
    raw = subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, 64, 96, 3)


def test_size_count_and_rate(path: Path) -> None:
    write_mp4(FRAMES, path, 12.0)
    assert read_back(path).shape == FRAMES.shape
    reader = imageio_ffmpeg.read_frames(str(path))
    metadata = next(reader)
    reader.close()
    assert metadata["source_size"] == (96, 64)
    assert metadata["fps"] == 12.0
    assert metadata["duration"] == pytest.approx(len(FRAMES) / 12, abs=0.01)


def test_tags_are_those_that_quicktime_needs(path: Path) -> None:
    write_mp4(FRAMES, path, 25.0)
    stream = probe(path)
    assert "h264 (High) (avc1" in stream
    assert "yuv420p(tv, bt709" in stream
    assert "96x64" in stream
    assert "25 fps" in stream


def test_colours_survive_a_player_that_follows_the_tags(path: Path) -> None:
    write_mp4(FRAMES, path, 12.0)
    difference = read_back(path).astype(int) - FRAMES
    assert np.abs(difference).max() <= 4


def test_colours_are_converted_with_the_bt709_matrix(path: Path) -> None:
    """Read as BT.601 they must be wrong: the samples are BT.709, and not only the tags."""
    write_mp4(FRAMES, path, 12.0)
    as_601 = read_back(path, "-vf", "setparams=colorspace=smpte170m,scale=in_color_matrix=bt601").astype(int)
    assert np.abs(as_601 - FRAMES).max() > 15


def test_the_index_comes_first_so_that_it_plays_while_it_loads(path: Path) -> None:
    write_mp4(FRAMES, path, 12.0)
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_a_generator_gives_the_same_bytes_as_an_array(tmp_path: Path) -> None:
    write_mp4(FRAMES, tmp_path / "array.mp4", 12.0)
    write_mp4((frame for frame in FRAMES), tmp_path / "generator.mp4", 12.0)
    assert (tmp_path / "array.mp4").read_bytes() == (tmp_path / "generator.mp4").read_bytes()


@pytest.mark.parametrize("name", ["-y.mp4", "a: b%d 'c'.mp4", "кот.mp4"])
def test_any_file_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    write_mp4(FRAMES[:2], name, 12.0)
    assert (tmp_path / name).stat().st_size > 0


def test_one_frame_and_a_fractional_rate(path: Path) -> None:
    write_mp4(FRAMES[:1], path, 23.976)
    assert "23.98 fps" in probe(path)


def test_a_result_saves_itself_at_its_frame_rate(path: Path) -> None:
    request = GenerationRequest(prompt="colours", frame_rate=10.0)
    RenderResult(FRAMES, np.zeros((1, 4, 2, 2, 3), np.float32), request).save(path)
    assert "10 fps" in probe(path)


def test_no_frames(path: Path) -> None:
    with pytest.raises(VideoError, match="no frames"):
        write_mp4([], path, 12.0)


def test_ffmpegs_last_words_are_in_the_error_and_no_file_is_left(path: Path) -> None:
    with pytest.raises(VideoError, match="not divisible by 2"):
        write_mp4(np.zeros((3, 33, 33, 3), np.uint8), path, 12.0)
    assert not path.exists()


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="No such file or directory"):
        write_mp4(FRAMES, tmp_path / "absent" / "out.mp4", 12.0)


def test_frames_that_change_size_or_are_not_bytes(path: Path) -> None:
    with pytest.raises(VideoError, match=r"a frame is uint8 \(32, 32, 3\)"):
        write_mp4([FRAMES[0], np.zeros((32, 32, 3), np.uint8)], path, 12.0)
    with pytest.raises(VideoError, match="a frame is float32"):
        write_mp4(FRAMES.astype(np.float32), path, 12.0)
    assert not path.exists()


def test_no_ffmpeg(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: "/nonexistent/ffmpeg")
    with pytest.raises(VideoError, match="could not be started"):
        write_mp4(FRAMES, path, 12.0)


def test_jpeg() -> None:
    encoded = encode_jpeg(Image.fromarray(FRAMES[9]))
    decoded = Image.open(io.BytesIO(encoded))
    assert decoded.format == "JPEG"
    assert np.abs(np.asarray(decoded, int) - FRAMES[9]).max() <= 4


def test_a_result_is_saved_through_links_and_into_pipes_and_replaces_nothing_else(tmp_path):
    """Half a file, or a file that a failure removed, would be somebody else's."""
    frames = np.zeros((9, 32, 32, 3), np.uint8)
    result = RenderResult(frames, np.zeros(1, np.float32), GenerationRequest(prompt="x", frame_rate=24.0))
    (tmp_path / "old.mp4").write_bytes(b"before")
    (tmp_path / "link.mp4").symlink_to("old.mp4")
    result.save(tmp_path / "link.mp4")
    whole = (tmp_path / "old.mp4").read_bytes()
    assert whole[4:8] == b"ftyp"
    assert (tmp_path / "link.mp4").is_symlink()
    os.mkfifo(tmp_path / "pipe")
    got = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    result.save(tmp_path / "pipe")
    reader.join(60)
    assert got == [whole]
    for name, why in (
        ("", "Is a directory"),
        ("no/a.mp4", "No such file"),
        ("x" * 300, "File name too long"),
        ("a.gif", "use a.mp4"),
    ):
        with pytest.raises(VideoError, match=why):
            result.save(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.mp4", "old.mp4", "pipe"]
