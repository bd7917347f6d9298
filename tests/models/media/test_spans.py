"""Test which frames of a clip are read: its last ones, at the video's rate, of its first video stream."""

from __future__ import annotations

import dataclasses
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ltx_client.errors import UsageError
from ltx_client.farm.jobs.inputs import address_inputs
from ltx_models.errors import InvalidRequest
from ltx_models.families.variants import find_variant
from ltx_models.media.clips import open_clip
from ltx_models.media.lengths import clip_length, is_only_sound
from ltx_models.media.spans import Span, span_of
from ltx_models.pipeline.conditioning_pixels import conditioning_pixels
from ltx_models.request import ConditioningItem, GenerationRequest
from tests.models.media.media_files import run_ffmpeg

H264 = ("-c:v", "libx264rgb", "-qp", "0", "-bf", "3", "-g", "12")
SOUND = ("-f", "lavfi", "-i", "sine=d=5")
"""That goes on for longer than the pictures do."""
VP9 = ("-c:v", "libvpx-vp9", "-lossless", "1", "-pix_fmt", "gbrp", "-deadline", "realtime")


def write_numbered(path: Path, rate: float, count: int, *options: str) -> Path:
    """Write a clip whose frames are as bright as twice their number."""
    frames = np.repeat(np.arange(count, dtype=np.uint8) * 2, 32 * 32 * 3)
    (path.parent / "raw").write_bytes(frames.tobytes())
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "32x32", "-r", str(rate), "-i", str(path.parent / "raw"))
    run_ffmpeg(*raw, *options, str(path))
    return path


def numbers(frames: Any) -> list[int]:
    return [round(float(frame.mean()) / 2) for frame in frames]


def every(step: float, last: int, count: int = 9) -> list[int]:
    return [round(last - step * number) for number in reversed(range(count))]


CASES: dict[str, tuple[str, float, int, tuple[str, ...], float, list[int]]] = {
    "the same rate": ("a.mp4", 24, 60, H264, 24, every(1, 59)),
    "60 to 24": ("a.mp4", 60, 120, H264, 24, [98, 101, 103, 106, 108, 111, 113, 116, 118]),
    "60 to 25": ("a.mov", 60, 120, H264, 25, [99, 102, 104, 106, 109, 111, 114, 116, 118]),
    "30 to 12": ("a.mkv", 30, 100, H264, 12, [78, 81, 83, 86, 88, 91, 93, 96, 98]),
    "24 to 12": ("a.mp4", 24, 60, H264, 12, every(2, 59)),
    "12 to 24": ("a.mp4", 12, 30, H264, 24, [25, 26, 26, 27, 27, 28, 28, 29, 29]),
    "in milliseconds": ("a.webm", 24, 60, VP9, 12, every(2, 59)),
    "without an end": ("a.mkv", 24, 60, ("-f", "matroska", "-live", "1", *H264), 24, every(1, 59)),
    "in fragments": ("a.mp4", 24, 60, (*H264, "-movflags", "frag_keyframe+empty_moov"), 24, every(1, 59)),
    "a GIF": ("a.gif", 20, 60, (), 20, every(1, 59)),
    "a frame a second": ("a.mp4", 1, 5, H264, 24, [4] * 9),
    "varying": (
        *("a.mp4", 24, 60, ("-vf", "select='lt(n,30)+not(mod(n,5))'", "-fps_mode", "vfr", *H264), 24),
        [45, 45, 45, 50, 50, 50, 50, 50, 55],
    ),
    "cut by an edit list": ("cut.mp4", 24, 60, H264, 24, every(1, 59)),
}


@pytest.mark.parametrize("kind", CASES)
def test_the_last_frames_are_read_at_the_videos_rate(tmp_path: Path, kind: str) -> None:
    name, own_rate, count, options, rate, expected = CASES[kind]
    path = write_numbered(tmp_path / name, own_rate, count, *options)
    if name == "cut.mp4":
        path = tmp_path / "a.mp4"
        run_ffmpeg("-ss", "1.3", "-i", str(tmp_path / name), "-c", "copy", str(path))
    clip = open_clip(path)
    span = Span(max(0.0, clip.stream.length - 9 / rate), 9, rate)
    read = numbers(clip.part(span))
    assert np.abs(np.subtract(read, expected)).max() <= (1 if name == "a.gif" else 0), read


def test_a_clip_of_60_frames_a_second_is_not_slowed_down(tmp_path: Path) -> None:
    """Of a second of red and one of blue, 24 frames are red at 24 frames a second."""
    red_and_blue = ("-f", "lavfi", "-i", "color=red:s=32x32:r=60:d=1[a];color=blue:s=32x32:r=60:d=1[b];[a][b]concat")
    run_ffmpeg(*red_and_blue, "-c:v", "libx264", "-pix_fmt", "yuv420p", str(tmp_path / "a.mp4"))
    frames = list(open_clip(tmp_path / "a.mp4").part(Span(0.0, 41, 24.0)))
    assert [bool(frame[0, 0, 0] > 200) for frame in frames] == [True] * 24 + [False] * 17


def with_cover(path: Path, form: str) -> Path:
    """Return a film with a cover; in an MP4, as its first stream."""
    Image.new("RGB", (96, 96), "white").save(path.parent / "cover.png")
    write_numbered(path.parent / "film.mp4", 24, 30, *H264)
    film = ("-i", str(path.parent / "film.mp4"))
    if form == "matroska":
        attached = ("-attach", str(path.parent / "cover.png"), "-metadata:s:t", "mimetype=image/png")
        run_ffmpeg(*film, "-c", "copy", *attached, "-f", form, str(path))
        return path
    cover = ("-i", str(path.parent / "cover.png"), "-map", "0", "-map", "1", "-disposition:v:1", "attached_pic")
    run_ffmpeg(*film, *cover, "-c", "copy", "-f", form, str(path))
    _move_description(path)
    return path


def _move_description(path: Path) -> None:
    """Put the film's description, which has the cover in it, before the film."""

    def boxes(data: bytes, at: int, end: int) -> Any:
        while at < end:
            (size,) = struct.unpack_from(">I", data, at)
            yield data[at + 4 : at + 8], data[at : at + size]
            at += size

    content = path.read_bytes()
    whole = b""
    for name, box in boxes(content, 0, len(content)):
        parts = sorted(boxes(box, 8, len(box)), key=lambda part: part[0] == b"trak") if name == b"moov" else []
        whole += box[:8] + b"".join(part for _, part in parts) if parts else box
    path.write_bytes(whole)


@pytest.mark.parametrize("form", ["mp4", "matroska"])
def test_a_cover_is_not_the_film(tmp_path: Path, form: str) -> None:
    clip = open_clip(with_cover(tmp_path / "clip", form))
    assert numbers(clip.part(Span(0.0, 9, 24.0))) == list(range(9))


@pytest.mark.parametrize(
    ("name", "encoder"),
    [
        ("a.mp4", ("-c:v", "libx264", "-flags", "+ildct+ilme", "-x264opts", "tff=1")),
        ("a.mkv", ("-c:v", "mpeg2video", "-flags", "+ildct+ilme", "-q:v", "2")),
        ("a.mov", ("-c:v", "dvvideo")),
    ],
)
def test_interlaced_frames_become_whole_ones(tmp_path: Path, name: str, encoder: tuple[str, ...]) -> None:
    """A bar that moves 16 pixels from field to field has combs on its edges, and none after deinterlacing."""
    source = ("-f", "lavfi", "-i", "color=black:s=720x576:r=50:d=0.4", "-f", "lavfi", "-i", "color=white:s=48x576:r=50")
    weave = "[0][1]overlay=x=16*n:y=0:shortest=1,tinterlace=interleave_top,setfield=tff"
    run_ffmpeg(*source, "-filter_complex", weave, *encoder, "-pix_fmt", "yuv420p", str(tmp_path / name))
    if name != "a.mp4":  # older ffmpegs call such a file progressive
        data = (tmp_path / name).read_bytes()
        called = re.sub(
            rb"\x9a\x81\x01", b"\x9a\x81\x02", re.sub(rb"fiel\x02.", b"fiel\x01\x00", data, count=1), count=1
        )
        assert called != data
        (tmp_path / name).write_bytes(called)
    clip = open_clip(tmp_path / name)
    assert clip.stream.interlaced
    frames = list(clip.frames(6))
    combs = [np.abs(np.diff(frame[..., 0].astype(int), axis=0)).max(axis=0) > 100 for frame in frames[1:-1]]
    assert max(int(comb.sum()) for comb in combs) == 0


def resolved(frames: int = 97, rate: float = 24) -> GenerationRequest:
    return GenerationRequest(prompt="x", num_frames=frames, frame_rate=rate).resolve(find_variant("pocket"))


def clip_item_of(path: Path) -> ConditioningItem:
    return dataclasses.replace(clip_item(), source=str(path))


def clip_item(**values: Any) -> ConditioningItem:
    return ConditioningItem(kind="video", source="clip.mp4", **values)


SPANS = {
    "the end": ({}, 97, 5.0, "3.96–5.00 s", 25),
    "the end, for a short video": ({}, 25, 5.0, "4.29–5.00 s", 17),
    "the end, for the shortest": ({}, 9, 5.0, "4.96–5.00 s", 1),
    "all of a short clip": ({}, 97, 0.5, "0.12–0.50 s", 9),
    "a single picture": ({}, 97, 0.01, "0.00–0.04 s", 1),
    "from a second on": ({"start": 2.0}, 97, 5.0, "2.00–3.04 s", 25),
    "from near the end on": ({"start": 4.5}, 97, 5.0, "4.50–4.88 s", 9),
    "a part": ({"start": 1.0, "stop": 3.0}, 97, 5.0, "1.29–3.00 s", 41),
    "a part that ends a little late": ({"start": 4.0, "stop": 5.05}, 97, 5.0, "4.29–5.00 s", 17),
    "all of it, changed": ({"start": 0.0, "stop": 4.05, "strength": 0.5}, 97, 5.0, "0.01–4.05 s", 97),
    "a later clip": ({"frame": 16}, 97, 5.0, "0.00–3.38 s", 81),
    "a later part": ({"frame": 48, "start": 2.0, "stop": 3.0}, 97, 5.0, "2.00–2.71 s", 17),
}


@pytest.mark.parametrize("kind", SPANS)
def test_what_is_read_of_a_clip(kind: str) -> None:
    values, frames, length, text, count = SPANS[kind]
    span = span_of(clip_item(**values), resolved(frames), length, "clip.mp4")
    assert (str(span), span.count) == (text, count)


WRONG = {
    "after the end": (
        {"start": 9.0},
        97,
        "clip.mp4 has 5.00 s, and second 9.00 was asked for; choose a part between 0",
    ),
    "ends after it": ({"start": 1.0, "stop": 9.0}, 97, "clip.mp4 has 5.00 s, and the part 1.00–9.00 s was asked for"),
    "no frame": ({"start": 1.0, "stop": 1.01}, 97, "the part 1.00–1.01 s of clip.mp4 is shorter than a frame at 24"),
    "nothing to render": (
        *({"start": 0.0, "stop": 5.0}, 97),
        "is 113 frames of a video that has 97, and leaves none to render; choose at most 3.71 s of it",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_part_that_cannot_be_is_refused_in_a_sentence(kind: str) -> None:
    values, frames, words = WRONG[kind]
    with pytest.raises(InvalidRequest, match=words.replace(".", r"\.")) as refusal:
        span_of(clip_item(**values), resolved(frames), 5.0, "clip.mp4")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "options", "length"),
    [
        ("a.mp4", (*H264, "-t", "2.5"), 2.5),
        ("a.mov", H264, 2.5),
        ("a.mkv", H264, 2.5),
        ("a.webm", VP9, 2.5),
        ("sound.mkv", (*SOUND, *H264), 2.5),
        ("sound.webm", (*SOUND, *VP9, "-c:a", "libopus"), 2.5),
        ("sound.mp4", (*SOUND, *H264), 2.5),
        ("sound without tags.mkv", (*SOUND, *H264, "-f", "matroska", "-live", "1"), None),
        ("a.gif", (), 2.5),
        ("fragments.mp4", (*H264, "-movflags", "frag_keyframe+empty_moov"), None),
        ("live.mkv", (*H264, "-f", "matroska", "-live", "1"), None),
    ],
)
def test_a_client_knows_a_clips_length_by_its_header(
    tmp_path: Path, name: str, options: tuple[str, ...], length: float | None
) -> None:
    path = write_numbered(tmp_path / name, 20, 50, *options)
    with path.open("rb") as file:
        assert clip_length(file) == (None if length is None else pytest.approx(length, abs=0.05))
    content = path.read_bytes()
    for damage in range(300):  # whatever its header holds, it is a length or none
        rng = np.random.default_rng(damage)
        data = bytearray(content[: rng.integers(1, 4_000)] if damage % 2 else content)
        for at in rng.integers(0, min(len(data), 2_000), 20):
            data[at] = rng.integers(0, 256)
        path.write_bytes(data)
        with path.open("rb") as file:
            found = clip_length(file)
        assert found is None or found > 0


@pytest.mark.parametrize(("name", "codec"), [("a.m4a", "aac"), ("a.mka", "libopus")])
def test_sound_alone_is_told_from_a_clip(tmp_path: Path, name: str, codec: str) -> None:
    run_ffmpeg(*SOUND, "-c:a", codec, str(tmp_path / name))
    write_numbered(
        tmp_path / f"clip{name[:-1]}v", 24, 30, *SOUND, *H264, "-f", "matroska" if name == "a.mka" else "mp4"
    )
    for path, expected in ((tmp_path / name, True), (tmp_path / f"clip{name[:-1]}v", False)):
        with path.open("rb") as file:
            assert is_only_sound(file) is expected
    with pytest.raises(UsageError, match="has sound but no pictures; use a clip with pictures"):
        address_inputs(dataclasses.replace(resolved(), conditioning=(clip_item_of(tmp_path / name),)))


def test_a_clip_as_long_as_the_video_is_continued(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "a.mp4", 24, 97, *H264)
    switches = {"blur": False, "compress": False}
    pixels = conditioning_pixels(dataclasses.replace(clip_item(**switches), source=str(path)), resolved())
    assert numbers(255 * pixels) == every(1, 96, 25)
