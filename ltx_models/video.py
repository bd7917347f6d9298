"""Encode frames as MP4 and JPEG. Needs no MLX."""

from __future__ import annotations

import contextlib
import io
import itertools
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image

from ltx_models.errors import VideoError
from ltx_models.machine_faults import kind_in_output

__all__ = ["encode_jpeg", "ffmpeg_path", "write_mp4"]

CRF = 18
"""x264's quality: differences to the frames are hard to see."""
JPEG_QUALITY = 85


def write_mp4(frames: Iterable[np.ndarray], path: Path | str, frame_rate: float) -> None:
    """Encode frames, uint8 (H, W, 3) each, as H.264 in an MP4 that plays everywhere and can be streamed.

    Convert colours to BT.709, limited range, 4:2:0, and tag them so: players guess where the tags are missing, and
    QuickTime guesses otherwise than ffmpeg. `frames` may be a generator; only one frame is in memory at a time.

    Raises:
        VideoError: There are no frames, a frame differs from the first in shape or type, or the encoder fails. No file
            is left then.
    """
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise VideoError(f"there are no frames to write to {path}")
    height, width = first.shape[:2]
    command = _command(width, height, frame_rate, Path(path))
    try:
        _encode(command, itertools.chain([first], frames), (height, width, 3))
    except BaseException:  # also Ctrl-C: whatever it is, half a file must not stay
        with contextlib.suppress(OSError):
            Path(path).unlink(missing_ok=True)
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


def _encode(command: list[str], frames: Iterable[np.ndarray], shape: tuple[int, int, int]) -> None:
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
                process.stdin.close()
            except BrokenPipeError:  # it died: its exit code and last words say why
                with contextlib.suppress(BrokenPipeError):  # of what is still to be written
                    process.stdin.close()
            except BaseException:  # also Ctrl-C, or an error of the generator of frames: ffmpeg would not end
                process.kill()
                raise
        if process.returncode != 0:
            words.seek(0)
            said = words.read().decode(errors="replace").strip() or "it said nothing"
            raise VideoError(f"ffmpeg failed with exit code {process.returncode}: {said[:2000]}", kind_in_output(said))
