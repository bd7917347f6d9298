"""Pictures and clips as conditioning wants them. Needs no MLX.

What is done to them is what the model's own authors do: the model was trained on frames of compressed videos, and a
sharp still would have it make a still.
"""

from __future__ import annotations

import contextlib
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ltx_models.errors import MediaError, VideoError
from ltx_models.faults import kind_in_words
from ltx_models.request import FRAME_STRIDE, ConditioningItem, GenerationRequest
from ltx_models.video import ffmpeg_path

__all__ = ["conditioning_pixels", "prepare_frame", "read_clip", "read_image"]

PICTURES = ("PNG", "JPEG", "WEBP")
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis")
MAX_PIXELS = 80_000_000
"""Of a picture, or of a frame. Pillow warns of more, since a small file may hold an enormous picture."""
CRF = 29
BLUR_SIGMA = 1.0
FIRST_BYTES = 32
LAST_WORDS = 5.0
"""Seconds that ffmpeg has to end after it closed its output."""
Frame = np.ndarray
"""uint8 or float32 in [0, 1], (H, W, 3)."""


def conditioning_pixels(item: ConditioningItem, request: GenerationRequest) -> np.ndarray:
    """The frames that an item adds to a resolved request: float32 (8n+1, height, width, 3) in [0, 1].

    A clip is cut to what is left of the video from the item's frame on, and to 8n+1 frames. Raises MediaError.
    """
    assert request.width and request.height and request.num_frames
    path = Path(item.source)
    frames = iter([read_image(path)]) if item.kind == "image" else read_clip(path, request.num_frames - item.frame)
    size = (request.width, request.height)
    prepared = [prepare_frame(frame, *size, crop=item.crop, blur=item.blur, compress=item.compress) for frame in frames]
    return np.stack(prepared[: (len(prepared) - 1) // FRAME_STRIDE * FRAME_STRIDE + 1])


def prepare_frame(frame: Frame, width: int, height: int, *, crop: bool, blur: bool, compress: bool) -> np.ndarray:
    """A uint8 frame of any size → float32 (height, width, 3) in [0, 1]; see `ConditioningItem` for the switches."""
    if crop:
        frame = crop_to_aspect(frame, width / height)
    pixels = frame.astype(np.float32) / 255
    if blur:
        pixels = gaussian_blur(pixels)
    if compress:
        pixels = through_h264(pixels)
    return resize_bilinear(pixels, width, height)


def read_image(path: Path) -> Frame:
    """A picture, uint8 (H, W, 3), turned as its EXIF orientation says. Transparency is dropped. Raises MediaError."""
    head = _first_bytes(path)
    if head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS:
        raise MediaError(f"{path} is a HEIC or AVIF picture, which is not read; export it as JPEG or PNG")
    try:
        with Image.open(path, formats=PICTURES) as image:
            _check_size(path, *image.size)
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError as error:
        raise MediaError(f"{path} has too many pixels; at most {MAX_PIXELS:,} are read: scale it down") from error
    except UnidentifiedImageError as error:
        raise MediaError(f"{path} is not a picture that is read: PNG, JPEG and WebP are") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise MediaError(f"{path} is damaged or cut off, and cannot be read as a picture: {error}") from error


def _to_rgb(image: Image.Image) -> Frame:
    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip
        grey = (np.asarray(image).astype(np.uint32) // 257).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def read_clip(path: Path, most: int) -> Iterator[Frame]:
    """The first frames of a clip (MP4, MOV, WebM, Matroska or GIF), at most so many: uint8 (H, W, 3) each.

    Its frame rate is not looked at, and it is turned as it says. Raises MediaError, and VideoError where ffmpeg does
    not run, dies, or says that the machine lacks something.
    """
    command = [
        *_ffmpeg(),
        *["-protocol_whitelist", "file,pipe", "-f", _container(path), "-i", f"file:{path}", "-map", "0:v:0"],
        # Each frame as a file of its own, which says its size.
        *["-frames:v", str(most), "-fps_mode", "passthrough", "-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24"],
        "pipe:1",
    ]
    count = 0
    with tempfile.TemporaryFile() as words, _started(command, words) as process:
        assert process.stdout is not None
        try:
            while count < most and process.stdout.readline() == b"P6\n":
                width, height = map(int, process.stdout.readline().split())
                _check_size(path, width, height)
                process.stdout.readline()
                data = process.stdout.read(width * height * 3)
                if len(data) < width * height * 3:
                    break
                count += 1
                yield np.frombuffer(data, np.uint8).reshape(height, width, 3)
            if count < most:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(LAST_WORDS)  # how it ends by itself tells whose fault that is
        finally:
            process.kill()
        words.seek(0)
        said = words.read().decode(errors="replace").strip()
    last = said.splitlines()[-1] if said else "it holds no frames"
    if count < most and (process.returncode < 0 or (not count and kind_in_words(said))):
        # Of which kind, its words do not prove: a clip may have put them there.
        raise VideoError(f"ffmpeg failed with exit code {process.returncode} on {path}: {last}")
    if not count:
        raise MediaError(f"{path} cannot be read as a clip: {last}")


def _container(path: Path) -> str:
    """ffmpeg's name of the format. It is not left to guess: some formats that it knows name other files to read."""
    head = _first_bytes(path)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free") and head[8:12] not in HEIF_BRANDS:
        return "mov"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    raise MediaError(f"{path} is not a clip that is read: MP4, MOV, WebM, Matroska and GIF are")


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(FIRST_BYTES)
    except OSError as error:
        raise MediaError(f"{path} cannot be read: {error.strerror}") from error


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise MediaError(f"{path} is {width}x{height}; at most {MAX_PIXELS:,} pixels are read: scale it down")


def crop_to_aspect(frame: Frame, aspect: float) -> Frame:
    """The middle of a frame, as large as possible, of that width to height."""
    height, width = frame.shape[:2]
    if width / height > aspect:
        new = max(1, int(height * aspect))
        start = (width - new) // 2
        return frame[:, start : start + new]
    new = max(1, int(width / aspect))
    start = (height - new) // 2
    return frame[start : start + new]


def gaussian_blur(pixels: np.ndarray) -> np.ndarray:
    """With a kernel of 3x3, σ = 1, mirrored at the edges."""
    side = float(np.exp(-0.5 / BLUR_SIGMA**2))
    weights = np.array([side, 1, side], np.float32) / np.float32(1 + 2 * side)
    for axis in (0, 1):
        widths = [(1, 1) if index == axis else (0, 0) for index in range(3)]
        padded = np.pad(pixels, widths, mode="reflect" if pixels.shape[axis] > 1 else "edge")
        size = pixels.shape[axis]
        slices = (np.take(padded, range(start, start + size), axis=axis) for start in range(3))
        pixels = np.sum([weight * part for weight, part in zip(weights, slices, strict=True)], axis=0)
    return pixels


def through_h264(pixels: np.ndarray) -> np.ndarray:
    """A frame encoded by x264 at CRF 29, and decoded: what compression leaves of it. Its size becomes even.

    Each frame by itself: x264 gives the first frame of a clip another quality than the rest. Raises MediaError.
    """
    height, width = (side // 2 * 2 for side in pixels.shape[:2])
    if not height or not width:
        return pixels
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24"]
    source = [*raw, "-video_size", f"{width}x{height}", "-framerate", "1", "-i", "pipe:0"]
    encoder = ["-c:v", "libx264", "-crf", str(CRF), "-preset", "veryfast", "-f", "h264", "pipe:1"]
    frame = (pixels[:height, :width] * 255).astype(np.uint8)
    encoded = _run([*_ffmpeg(), *source, "-vf", "scale=flags=bilinear,format=yuv420p", *encoder], frame.tobytes())
    decoder = ["-f", "h264", "-i", "pipe:0", "-vf", "scale=flags=bilinear,format=rgb24", *raw, "pipe:1"]
    decoded = _run([*_ffmpeg(), *decoder], encoded)
    if len(decoded) != frame.nbytes:
        raise VideoError(f"a frame of {width}x{height} came back from H.264 with {len(decoded):,} bytes")
    return np.frombuffer(decoded, np.uint8).reshape(frame.shape).astype(np.float32) / 255


def resize_bilinear(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Between the two nearest rows and columns, pixels being areas, with no smoothing of what is scaled down."""
    for axis, size in ((0, height), (1, width)):
        old = pixels.shape[axis]
        if old == size:
            continue
        position = np.maximum((np.arange(size, dtype=np.float32) + 0.5) * np.float32(old / size) - 0.5, 0)
        lower = np.minimum(position.astype(np.int64), old - 1)
        upper = np.minimum(lower + 1, old - 1)
        weight = (position - lower).reshape(-1, *[1] * (2 - axis))
        pixels = np.take(pixels, lower, axis) * (1 - weight) + np.take(pixels, upper, axis) * weight
    return pixels.astype(np.float32)


def _ffmpeg() -> list[str]:
    return [ffmpeg_path(), "-hide_banner", "-loglevel", "error", "-nostdin"]


def _started(command: list[str], words: IO[bytes]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=words)
    except OSError as error:
        raise VideoError(f"ffmpeg could not be started: {error}") from error


def _run(command: list[str], data: bytes) -> bytes:
    """What ffmpeg makes of pixels or of its own H.264: where that fails, it is not the picture's fault."""
    try:
        return subprocess.run(command, input=data, capture_output=True, check=True).stdout
    except OSError as error:
        raise VideoError(f"ffmpeg could not be started: {error}") from error
    except subprocess.CalledProcessError as error:
        words = error.stderr.decode(errors="replace").strip()[:500] or "it said nothing"
        raise VideoError(f"ffmpeg failed with exit code {error.returncode}: {words}", kind_in_words(words)) from error
