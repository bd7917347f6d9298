"""Prepare pictures and clips as the model expects them.

This follows the model's authors: the model was trained on frames of compressed videos, and a sharp still would make it
render a still. They do it at the picture's own size; here it is at most twice the video's, since their resizing skips
pixels of anything larger.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np

from ltx_models.errors import VideoError
from ltx_models.families.ltxv import LTXV
from ltx_models.media import ffmpeg
from ltx_models.media.clips import open_clip
from ltx_models.media.fit import Fit
from ltx_models.media.pictures import read_picture
from ltx_models.media.spans import Span, span_of
from ltx_models.request import ConditioningItem, GenerationRequest

__all__ = ["conditioning_pixels", "prepare_frame", "read_item"]

CRF = 29
BLUR_SIGMA = 1.0


def conditioning_pixels(item: ConditioningItem, request: GenerationRequest) -> np.ndarray:
    """Return the frames that an item adds to a resolved request: float32 (8n+1, height, width, 3) in [0, 1].

    A clip gives the part of `span_of`, at the video's rate, or at its own if the request has none.

    Raises:
        MediaError: The file cannot be read.
        InvalidRequest: As in `span_of`.
    """
    reading = read_item(item, request)
    while True:
        try:
            next(reading)
        except StopIteration as end:
            pixels: np.ndarray = end.value
            return pixels


def read_item(
    item: ConditioningItem, request: GenerationRequest, tell: Callable[[Span], None] = lambda _: None
) -> Generator[float, None, np.ndarray]:
    """Read and prepare an item as `conditioning_pixels` does, frame by frame.

    A clip's frames are all read first, as small as possible and in 8 bits, so that it is not decoded while ffmpeg works
    on the frames.

    Args:
        item: The item.
        request: The resolved request.
        tell: Called with the part of a clip that is read, before it is read.

    Yields:
        The fraction that is done, after each frame.

    Returns:
        The frames, as `conditioning_pixels` returns them.
    """
    assert request.width and request.height and request.num_frames
    fit = Fit(request.width, request.height, item.crop)
    frames: deque[np.ndarray] = deque()
    if item.kind == "image":
        frames.append(read_picture(Path(item.source), fit))
    else:
        clip = open_clip(Path(item.source))
        if request.frame_rate is None:
            request = dataclasses.replace(request, frame_rate=clip.stream.rate)
        tell(span := span_of(item, request, clip.stream.length, item.source))
        for frame in clip.part(span, fit):
            frames.append(fit.cut(frame))
            yield len(frames) / span.count / 2
    count = LTXV.limits.frames_at_most(len(frames))
    pixels = np.empty((count, fit.height, fit.width, 3), np.float32)
    for index in range(count):
        pixels[index] = prepare_frame(frames.popleft(), fit.width, fit.height, blur=item.blur, compress=item.compress)
        yield (1 + (index + 1) / count) / 2
    return pixels


def prepare_frame(frame: np.ndarray, width: int, height: int, *, blur: bool, compress: bool) -> np.ndarray:
    """Return a uint8 frame (H, W, 3) as float32 (height, width, 3) in [0, 1].

    Args:
        frame: The frame.
        width: Columns of the result.
        height: Rows of the result.
        blur: As in `ConditioningItem`.
        compress: As in `ConditioningItem`.
    """
    pixels = frame.astype(np.float32)
    pixels /= 255
    if blur:
        pixels = gaussian_blur(pixels)
    if compress:
        pixels = through_h264(pixels)
    return resize_bilinear(pixels, width, height)


def gaussian_blur(pixels: np.ndarray) -> np.ndarray:
    """Blur with a kernel of 3x3, σ = 1, mirrored at the edges."""
    side = float(np.exp(-0.5 / BLUR_SIGMA**2))
    weights = np.array([side, 1, side], np.float32) / np.float32(1 + 2 * side)
    for axis in (0, 1):
        widths = [(1, 1) if index == axis else (0, 0) for index in range(3)]
        padded = np.pad(pixels, widths, mode="reflect" if pixels.shape[axis] > 1 else "edge")
        shifted = np.moveaxis(padded, axis, 0)
        pixels = np.zeros_like(pixels)
        out = np.moveaxis(pixels, axis, 0)
        for start, weight in enumerate(weights):
            out += weight * shifted[start : start + len(out)]
    return pixels


def through_h264(pixels: np.ndarray) -> np.ndarray:
    """Encode a frame by x264 at CRF 29, and decode it again, which leaves compression artefacts. Its size becomes even.

    Each frame is encoded by itself: x264 gives the first frame of a clip another quality than the rest. Raise
    VideoError.
    """
    height, width = (side // 2 * 2 for side in pixels.shape[:2])
    if not height or not width:
        return pixels
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24"]
    source = [*raw, "-video_size", f"{width}x{height}", "-framerate", "1", "-i", "pipe:0"]
    # A single frame is not coded otherwise by more threads, each of which takes memory of its own.
    encoder = ["-c:v", "libx264", "-threads", "1", "-crf", str(CRF), "-preset", "veryfast", "-f", "h264", "pipe:1"]
    frame = (pixels[:height, :width] * 255).astype(np.uint8)
    encoded = ffmpeg.run([*source, "-vf", "scale=flags=bilinear,format=yuv420p", *encoder], frame.tobytes())
    decoder = ["-threads", "1", "-f", "h264", "-i", "pipe:0", "-vf", "scale=flags=bilinear,format=rgb24"]
    decoded = ffmpeg.run([*decoder, *raw, "pipe:1"], encoded)
    if len(decoded) != frame.nbytes:
        raise VideoError(f"a frame of {width}x{height} came back from H.264 with {len(decoded):,} bytes")
    pixels = np.frombuffer(decoded, np.uint8).reshape(frame.shape).astype(np.float32)
    pixels /= 255
    return pixels


def resize_bilinear(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize between the two nearest rows and columns, pixels being areas, without smoothing when scaling down."""
    for axis, size in ((0, height), (1, width)):
        old = pixels.shape[axis]
        if old == size:
            continue
        position = np.maximum((np.arange(size, dtype=np.float32) + 0.5) * np.float32(old / size) - 0.5, 0)
        lower = np.minimum(position.astype(np.int64), old - 1)
        upper = np.minimum(lower + 1, old - 1)
        weight = (position - lower).astype(np.float32).reshape(-1, *[1] * (2 - axis))
        below, above = np.take(pixels, lower, axis), np.take(pixels, upper, axis)
        below *= 1 - weight
        above *= weight
        pixels = np.add(below, above, out=below)
    return pixels
