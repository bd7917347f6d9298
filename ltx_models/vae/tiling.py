"""Decode in pieces: exactly in time, in tiles with blended seams in space.

In time the video streams through the decoder, whose convolutions keep the frames that the next ones need, so that the
pieces have no seams. In space each tile is decoded by itself; neighbours overlap and are blended.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import mlx.core as mx
import numpy as np

from ltx_models.errors import OutOfMemory
from ltx_models.memory import GB, TILE_OVERLAP, DecodePlan
from ltx_models.vae.blocks import DepthToSpaceUpsample, Stream
from ltx_models.vae.decoder import Decoder, Layer
from ltx_models.vae.noise import InjectedNoise

__all__ = ["decode_frames", "decode_streamed", "decode_tiled", "is_out_of_memory", "tile_spans", "tile_weights"]

MARGIN = 2
"""Latents at a tile's inner edge that are decoded and left out: they lack the most context."""
RAMP = TILE_OVERLAP - 2 * MARGIN
"""Latents over which one tile fades into the next."""
FIRST_FRAMES = 3
"""Frames that a layer needs of a video's beginning to compute anything: two convolutions delay it by two frames."""
Convert = Callable[[mx.array], mx.array]

ALLOCATION_FAILURES = ("memory", "alloc")
"""Words of MLX's errors when memory runs out: they are of the type RuntimeError, like all its others."""


def decode_frames(
    decoder: Decoder,
    latents: mx.array,
    timestep: mx.array | None,
    plans: Iterable[DecodePlan],
    convert: Convert,
    noise: InjectedNoise | None = None,
) -> Iterator[np.ndarray]:
    """Yield all frames in order, chunk by chunk, as `convert` returns them.

    Args:
        decoder: The decoder.
        latents: (1, F, H, W, C), not normalized.
        timestep: (B,) in [0, 1], or None.
        plans: The plans by falling need of memory. The first is used; when memory runs out, the next one continues from
            the current frame.
        convert: A conversion of pixels in about [-1, 1], each by itself, in any order.
        noise: The noise that blocks inject, or None.

    Raises:
        OutOfMemory: The last plan ran out of memory too.
    """
    done = 0
    failure: Exception | None = None
    for plan in plans:
        seen = 0
        ready: mx.array | None = None
        following: mx.array | None = None
        chunks = decode_tiled(decoder, latents, timestep, plan, noise, convert)
        while True:
            try:
                # The next chunk is begun before this one is fetched, so that the device does not wait meanwhile.
                following = next(chunks, None)
                if following is not None:
                    mx.async_eval(following)
                chunk = None if ready is None else np.array(ready)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                failure = error.with_traceback(None)  # its stack frames reference arrays
                break
            ready = following
            if chunk is not None:
                fresh = chunk[max(0, done - seen) :]
                seen += len(chunk)
                if len(fresh):
                    done = seen
                    yield fresh
            if following is None:
                return
        del chunks, ready, following
        mx.clear_cache()
    raise OutOfMemory(
        f"decoding ran out of memory even in the smallest pieces, with {mx.get_active_memory() / GB:.1f} GB in use;"
        " ask for a smaller size, or close other programs"
    ) from failure


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that MLX, or Python, ran out of memory."""
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in ALLOCATION_FAILURES)


def decode_tiled(
    decoder: Decoder,
    latents: mx.array,
    timestep: mx.array | None,
    plan: DecodePlan,
    noise: InjectedNoise | None = None,
    convert: Convert | None = None,
) -> Iterator[mx.array]:
    """Yield the pixels by one plan, converted, (n, 32H, 32W, 3) a chunk; with tiles, all come after the last tile."""
    _, frames, height, width, _ = latents.shape
    rows, columns = tile_spans(height, plan.tile), tile_spans(width, plan.tile)
    if len(rows) == len(columns) == 1:
        for pixels in decode_streamed(decoder, latents, timestep, plan.chunk_bytes, noise, convert):
            yield pixels[0]
        return
    time_scale, scale = _scales(decoder)
    canvas = np.zeros((time_scale * (frames - 1) + 1, scale * height, scale * width, 3), np.float16)
    fades = itertools.product(tile_weights(rows, scale), tile_weights(columns, scale))
    for ((top, bottom), (left, right)), (down, across) in zip(itertools.product(rows, columns), fades, strict=True):
        weights = mx.array(down[:, None, None] * across[:, None])
        done = 0
        tile = latents[:, :, top:bottom, left:right]
        injected = noise and noise.within(top, bottom, left, right)
        for pixels in decode_streamed(decoder, tile, timestep, plan.chunk_bytes, injected):
            chunk = np.array((pixels[0] * weights).astype(mx.float16))
            region = canvas[done : done + len(chunk), scale * top : scale * bottom, scale * left : scale * right]
            region += chunk
            done += len(chunk)
    for start in range(0, len(canvas), time_scale):
        blended = mx.array(canvas[start : start + time_scale])
        yield convert(blended) if convert else blended


def tile_spans(size: int, tile: int | None) -> list[tuple[int, int]]:
    """Return tiles of `tile` latents along a side of `size`, evenly spread, that overlap by at least TILE_OVERLAP."""
    if tile is None or tile >= size:
        return [(0, size)]
    count = math.ceil((size - TILE_OVERLAP) / (tile - TILE_OVERLAP))
    starts = [round(index * (size - tile) / (count - 1)) for index in range(count)]
    return [(start, start + tile) for start in starts]


def tile_weights(spans: Sequence[tuple[int, int]], scale: int) -> list[np.ndarray]:
    """Return the weight of each pixel of each tile along a side, float32: falling towards neighbours, 1 in sum."""
    size = spans[-1][1]
    total = np.zeros(size * scale, np.float32)
    ramps = []
    for start, stop in spans:
        position = (np.arange(start * scale, stop * scale, dtype=np.float32) + 0.5) / scale
        rise = (position - start - MARGIN) / RAMP if start > 0 else np.ones_like(position)
        fall = (stop - MARGIN - position) / RAMP if stop < size else np.ones_like(position)
        ramps.append(np.clip(np.minimum(rise, fall), 0, 1))
        total[start * scale : stop * scale] += ramps[-1]
    return [ramp / total[start * scale : stop * scale] for ramp, (start, stop) in zip(ramps, spans, strict=True)]


def decode_streamed(
    decoder: Decoder,
    latents: mx.array,
    timestep: mx.array | None,
    chunk_bytes: int,
    noise: InjectedNoise | None = None,
    convert: Convert | None = None,
) -> Iterator[mx.array]:
    """Yield pixels (B, n, 32H, 32W, 3), n frames at a time, equal to those of a decode of the whole video.

    Args:
        decoder: The decoder.
        latents: (B, F, H, W, C), not normalized. A single latent frame is decoded without waiting for each layer.
        timestep: (B,) in [0, 1], or None.
        chunk_bytes: The approximate size of the largest array, unless a single frame is larger.
        noise: The noise that blocks inject, or None.
        convert: A conversion of pixels, each by itself; None for none.
    """
    if latents.shape[1] == 1:
        yield decoder(latents, timestep, noise, convert)
        return
    stages = [_Stage(layer, chunk_bytes) for layer in decoder.layers(timestep, noise, convert)]
    stages[0].put(latents, last=True)
    computing: mx.array | None = None
    while busy := [index for index, stage in enumerate(stages) if stage.pending]:
        # The furthest first: what is nearly finished is not left lying.
        index = busy[-1]
        frames, last = stages[index].run()
        if computing is not None:
            mx.eval(computing)  # one layer's work is queued behind another's, and no more: it takes memory when queued
        computing = frames
        if index + 1 < len(stages):
            stages[index + 1].put(frames, last=last)
        else:
            yield frames
        del frames


class _Stage:
    """A layer, its state of the stream, and the chunks that wait for it."""

    def __init__(self, layer: Layer, chunk_bytes: int) -> None:
        self.layer = layer
        self.chunk_bytes = chunk_bytes
        self.stream = Stream()
        self.pending: deque[tuple[mx.array, bool]] = deque()
        self._early: list[mx.array] = []
        self._started = False

    def put(self, x: mx.array, *, last: bool) -> None:
        """Add frames, cut into chunks of the size that the layer may work on; `last` if the video ends there."""
        if not self._started:
            self._early.append(x)
            if sum(early.shape[1] for early in self._early) < FIRST_FRAMES and not last:
                return
            x = mx.concatenate(self._early, axis=1)
            self._early.clear()
        batch, frames, height, width, _ = x.shape
        if not frames:
            return
        frame_bytes = batch * height * width * self.layer.channels * x.itemsize
        length = max(1, self.chunk_bytes // frame_bytes)
        first = length if self._started else max(length, FIRST_FRAMES)
        self._started = True
        for start, stop in itertools.pairwise([0, *range(first, frames, length), frames]):
            self.pending.append((x[:, start:stop], last and stop == frames))

    def run(self) -> tuple[mx.array, bool]:
        """Run the next chunk through the layer; return its frames, and whether it is the last chunk."""
        x, self.stream.last = self.pending.popleft()
        y = self.layer.run(x, self.stream)
        mx.async_eval(y, list(self.stream.kept.values()))
        self.stream.first = False
        return y, self.stream.last


def _scales(decoder: Decoder) -> tuple[int, int]:
    """Return the number of frames of one latent, and the pixels of its side."""
    strides = [block.stride for block in decoder.up_blocks if isinstance(block, DepthToSpaceUpsample)]
    return math.prod(time for time, _, _ in strides), decoder.patch_size * math.prod(rows for _, rows, _ in strides)
