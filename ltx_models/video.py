"""Encode frames as MP4, with or without sound, and as JPEG. Needs no MLX."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import math
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageCms

from ltx_models.errors import VideoError
from ltx_models.machine_faults import kind_in_output
from ltx_models.sound import Sound

__all__ = ["add_sound", "encode_jpeg", "encode_poster", "ffmpeg_path", "write_mp4"]

CRF = 18
"""x264's quality: differences to the frames are hard to see."""
JPEG_QUALITY = 85
POSTER_QUALITY = 90
"""A poster stands for the video as long as the video is kept, and is shown larger than a preview. From here on a JPEG
grows fast (by two thirds to 95), and its differences to the frame are smaller than those of the MP4's own frame.
"""
PROFILE_DATE = slice(24, 36)
"""The bytes of a colour profile's head that say when it was made; without them the same frame gives the same bytes."""
SOUND_RATE = 48_000
"""Samples a second of the sound in an MP4: what films and players use."""
SOUND_BITRATE = 96_000
"""Bits a second of one channel, at which AAC is hard to tell from its source."""
MARGIN = 0.1
"""Seconds after the video's end that are resampled too, so that the cut is no edge for the resampler's filter."""


def write_mp4(frames: Iterable[np.ndarray], path: Path | str, frame_rate: float, sound: Sound | None = None) -> None:
    """Encode frames, uint8 (H, W, 3) each, as H.264 in an MP4 that plays everywhere and can be streamed.

    Convert colours to BT.709, limited range, 4:2:0, and tag them so: players guess where the tags are missing, and
    QuickTime guesses otherwise than ffmpeg. `frames` may be a generator; only one frame is in memory at a time.

    Args:
        frames: The frames, in order.
        path: The regular file to write.
        frame_rate: Frames a second.
        sound: Its sound, written as AAC, which is made exactly as long as the video: silence follows what is shorter,
            and what is longer is cut. With sound, `path` appears whole, when all is done.

    Raises:
        VideoError: There are no frames, a frame differs from the first in shape or type, or the encoder fails. No file
            is left then.
    """
    path = Path(path)
    if sound is None:
        _write_silent(frames, path, frame_rate)
        return
    with _folder_beside(path) as folder:
        count = _write_silent(frames, folder / "video.mp4", frame_rate)
        add_sound(folder / "video.mp4", sound, count / frame_rate)
        _replace(path, folder / "video.mp4")


def add_sound(path: Path, sound: Sound, seconds: float) -> None:
    """Give an MP4 without sound one, exactly `seconds` long; its pictures are copied as they are.

    The file is replaced in one step, and only when the whole is written.

    Raises:
        VideoError: The encoder fails; the file is unchanged.
    """
    with _folder_beside(path) as folder:
        whole = folder / "whole.mp4"
        length = math.ceil((seconds + MARGIN) * sound.rate)
        samples = np.clip(sound.samples[:length], -1, 1).astype("<f4")
        command = _sound_command(path, whole, sound, samples=round(seconds * SOUND_RATE))
        with tempfile.TemporaryFile() as words:
            try:
                done = subprocess.run(
                    command, input=samples.tobytes(), stdout=subprocess.DEVNULL, stderr=words, check=False
                )
            except OSError as error:
                raise VideoError(f"ffmpeg could not be started: {error}") from error
            _check_exit(done.returncode, words)
        _replace(path, whole)


@contextlib.contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """Make a folder on the disk of `path`, from which a file can be renamed to it. Raise VideoError."""
    try:
        folder = tempfile.TemporaryDirectory(prefix=".sound-", dir=path.parent, ignore_cleanup_errors=True)
    except OSError as error:
        raise VideoError(f"cannot write {path}: {error.strerror or error}") from error
    with folder:
        yield Path(folder.name)


def _replace(path: Path, whole: Path) -> None:
    try:
        whole.replace(path)
    except OSError as error:
        raise VideoError(f"cannot write {path}: {error.strerror or error}") from error


def _write_silent(frames: Iterable[np.ndarray], path: Path, frame_rate: float) -> int:
    """Write an MP4 without sound, and return how many frames it has. Raise VideoError, and leave no file then."""
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise VideoError(f"there are no frames to write to {path}")
    height, width = first.shape[:2]
    command = _command(width, height, frame_rate, path)
    try:
        return _encode(command, itertools.chain([first], frames), (height, width, 3))
    except BaseException:  # also Ctrl-C: whatever it is, half a file must not stay
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise


def ffmpeg_path() -> str:
    """Return the path of ffmpeg. Raise VideoError where it is not installed."""
    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise VideoError(f"ffmpeg was not found: {error}") from error


def encode_jpeg(image: Image.Image) -> bytes:
    """Return an image as JPEG, for previews."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def encode_poster(frame: np.ndarray) -> bytes:
    """Return a frame of a video, uint8 (H, W, 3), as a JPEG of its own size, whose colours are tagged as sRGB."""
    buffer = io.BytesIO()
    options = {"quality": POSTER_QUALITY, "subsampling": "4:4:4", "optimize": True}  # 4:2:0 blurs coloured edges
    Image.fromarray(frame).save(buffer, format="JPEG", icc_profile=_srgb(), **options)
    return buffer.getvalue()


@functools.cache
def _srgb() -> bytes:
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[PROFILE_DATE] = bytes(12)
    return bytes(profile)


def _sound_command(video: Path, output: Path, sound: Sound, samples: int) -> list[str]:
    channels = sound.samples.shape[1]
    # apad and atrim, not -shortest, which cuts at the end of a packet and by what happens to be buffered
    exact = f"aresample={SOUND_RATE},apad=whole_len={samples},atrim=end_sample={samples}"
    return [
        ffmpeg_path(),
        *["-hide_banner", "-loglevel", "error", "-nostdin", "-y", "-i", f"file:{video}"],
        *["-f", "f32le", "-ar", str(sound.rate), "-ac", str(channels), "-i", "pipe:0"],
        *["-map", "0:v:0", "-map", "1:a:0", "-c:v", "copy", "-af", exact],
        *["-c:a", "aac", "-b:a", str(SOUND_BITRATE * channels), "-ar", str(SOUND_RATE)],
        *["-fflags", "+bitexact", "-flags:a", "+bitexact", "-movflags", "+faststart", "-f", "mp4"],
        f"file:{output}",
    ]


def _command(width: int, height: int, frame_rate: float, path: Path) -> list[str]:
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", f"{width}x{height}"]
    # accurate_rnd and full_chroma_int: swscale's fast paths are off by a few levels.
    scale = "scale=out_color_matrix=bt709:out_range=tv:flags=bicubic+accurate_rnd+full_chroma_int,format=yuv420p"
    tags = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
    # setparams, because ffmpeg 7 and later take the tags from the frames, not from the options.
    scale += ",setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"
    return [
        ffmpeg_path(),
        *["-hide_banner", "-loglevel", "error", "-nostdin", "-y"],
        *source,
        *["-framerate", str(frame_rate), "-i", "pipe:0", "-vf", scale],
        *["-c:v", "libx264", "-crf", str(CRF), "-preset", "medium", *tags],
        # bitexact: no encoder versions in the file, so the same frames give the same bytes.
        *["-fflags", "+bitexact", "-flags:v", "+bitexact", "-movflags", "+faststart", "-f", "mp4"],
        f"file:{path}",
    ]


def _encode(command: list[str], frames: Iterable[np.ndarray], shape: tuple[int, int, int]) -> int:
    """Return how many frames were encoded. Raise VideoError."""
    count = 0
    # ffmpeg's messages go to a file: a pipe that is not read could fill up and block it.
    with tempfile.TemporaryFile() as words:
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=words)
        except OSError as error:
            raise VideoError(f"ffmpeg could not be started: {error}") from error
        with process:
            assert process.stdin is not None
            try:
                for frame in frames:
                    if frame.shape != shape or frame.dtype != np.uint8:
                        raise VideoError(f"a frame is {frame.dtype} {frame.shape}; uint8 {shape} is expected")
                    process.stdin.write(np.ascontiguousarray(frame).tobytes())
                    count += 1
                process.stdin.close()
            except BrokenPipeError:  # it died: its exit code and last words say why
                with contextlib.suppress(BrokenPipeError):  # of what is still to be written
                    process.stdin.close()
            except BaseException:  # also Ctrl-C, or an error of the generator of frames: ffmpeg would not end
                process.kill()
                raise
        _check_exit(process.returncode, words)
    return count


def _check_exit(code: int, words: IO[bytes]) -> None:
    """Raise VideoError, with what ffmpeg has said, unless it has done its work."""
    if code == 0:
        return
    words.seek(0)
    said = words.read().decode(errors="replace").strip() or "it said nothing"
    raise VideoError(f"ffmpeg failed with exit code {code}: {said[:2000]}", kind_in_output(said))
