"""ffmpeg as a child process: fed and waited for, or read frame by frame, within bounds of memory and time."""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import psutil

from ltx_models.errors import MediaError, VideoError
from ltx_models.faults import kind_in_words
from ltx_models.video import ffmpeg_path

__all__ = ["read_frames", "run"]

MEMORY = 300_000_000
"""Bytes that ffmpeg may take while it reads a file, its code included."""
MAX_PIXELS = 140_000_000
"""Of a frame, at which ffmpeg does not begin: more do not fit in MEMORY, at the least that a pixel takes."""
POLL = 0.02
"""Seconds between two checks of its memory."""
PATIENCE = 120.0
"""Seconds without a frame after which ffmpeg is taken to hang."""
LAST_WORDS = 5.0
"""Seconds that ffmpeg has to end after it closed its output."""
BLOCK = 1 << 20
HEADER = re.compile(rb"P6\n(\d+) (\d+)\n255\n")
LONGEST_HEADER = 40
SIZE = re.compile(r"Picture size (\d+)x(\d+)")
PREFIX = re.compile(r"^(\[[^]]*\] *)+")
"""Of what ffmpeg says: which part of it says that."""


class _Ended(Exception):
    """There is no more to read."""


def run(arguments: Sequence[str], data: bytes) -> bytes:
    """Return what ffmpeg makes of `data`. Raises VideoError."""
    command = [*_ffmpeg(), *arguments]
    try:
        return subprocess.run(command, input=data, capture_output=True, check=True, timeout=PATIENCE).stdout
    except OSError as error:
        raise VideoError(f"ffmpeg could not be started: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise VideoError(f"ffmpeg did not end within {PATIENCE:g} s") from error
    except subprocess.CalledProcessError as error:
        words = error.stderr.decode(errors="replace").strip()[:500] or "it said nothing"
        raise VideoError(f"ffmpeg failed with exit code {error.returncode}: {words}", kind_in_words(words)) from error


def read_frames(path: Path, source: Sequence[str], filters: str, most: int) -> Iterator[np.ndarray]:
    """Yield the first frames of a file, at most so many, each uint8 (H, W, 3) and of the size that it comes out with.

    source: ffmpeg's options of the file.  filters: what is done to each frame. Raises MediaError, also once ffmpeg
    takes more than MEMORY or hangs; and VideoError where it does not run, dies, or says that the machine lacks
    something.
    """
    # More threads of a decoder hold more frames, and so does a queue. Filters may have threads: they shorten theirs.
    bounds = ["-threads", "1", "-thread_queue_size", "1", "-max_pixels", str(MAX_PIXELS)]
    command = [
        *[*_ffmpeg(), *bounds, "-protocol_whitelist", "file,pipe", *source, "-i", f"file:{path}"],
        *["-map", "0:v:0", "-vf", filters, "-frames:v", str(most), "-fps_mode", "passthrough"],
        # Each frame as a file of its own, which says its size.
        *["-thread_queue_size", "1", "-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "pipe:1"],
    ]
    count = 0
    with tempfile.TemporaryFile() as words, _started(command, words) as process:
        try:
            output = _Output(path, process)
            while count < most and (frame := output.frame()) is not None:
                count += 1
                yield frame
            if count < most:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(LAST_WORDS)  # how it ends by itself tells whose fault that is
        finally:
            process.kill()
        process.wait()
        words.seek(0)
        said = words.read().decode(errors="replace").strip()
    if count < most and (process.returncode < 0 or (not count and kind_in_words(said))):
        # Of which kind, its words do not prove: a clip may have put them there.
        raise VideoError(f"ffmpeg failed with exit code {process.returncode} on {path}: {_reason(said)}")
    if not count:
        raise _nothing_read(path, said)


def _started(command: list[str], words: IO[bytes]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=words)
    except OSError as error:
        raise VideoError(f"ffmpeg could not be started: {error}") from error


def _nothing_read(path: Path, said: str) -> MediaError:
    for width, height in (map(int, size) for size in SIZE.findall(said)):
        if width * height > MAX_PIXELS:
            return MediaError(
                f"{path} is too large: it is {width}x{height}, and at most {MAX_PIXELS // 10**6} megapixels a frame are"
                " read: scale it down"
            )
    if not said or "matches no streams" in said:
        return MediaError(f"{path} cannot be read: it holds no frames")
    return MediaError(f"{path} is damaged or cut off, and cannot be read: {_reason(said)}")


def _reason(said: str) -> str:
    """What ffmpeg said first; what follows comes of that."""
    return PREFIX.sub("", said.partition("\n")[0])[:200] or "it said nothing"


class _Output:
    """What ffmpeg writes, read while its memory and its progress are watched."""

    def __init__(self, path: Path, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self._path = path
        self._file = process.stdout.fileno()
        self._process = psutil.Process(process.pid)
        self._rest = b""

    def frame(self) -> np.ndarray | None:
        """Return the next frame, or None after the last. Raises MediaError."""
        give_up_at = time.monotonic() + PATIENCE
        try:
            while (match := HEADER.match(self._rest)) is None and len(self._rest) < LONGEST_HEADER:
                self._rest += self._read(BLOCK, give_up_at)
            if match is None:
                return None
            width, height = map(int, match.groups())
            data = bytearray(self._rest[match.end() : match.end() + width * height * 3])
            self._rest = self._rest[match.end() + len(data) :]
            while missing := width * height * 3 - len(data):
                data += self._read(min(BLOCK, missing), give_up_at)
        except _Ended:
            return None
        return np.frombuffer(data, np.uint8).reshape(height, width, 3)

    def _read(self, size: int, give_up_at: float) -> bytes:
        while not select.select([self._file], [], [], POLL)[0]:
            self._check(give_up_at)
        self._check(give_up_at)
        if not (data := os.read(self._file, size)):
            raise _Ended
        return data

    def _check(self, give_up_at: float) -> None:
        if time.monotonic() > give_up_at:
            raise MediaError(f"{self._path} cannot be read: ffmpeg made no progress for {PATIENCE:g} s")
        try:
            memory = self._process.memory_info()
        except psutil.Error:  # it has ended
            return
        if memory.rss > MEMORY:
            raise MediaError(
                f"{self._path} is too large: it takes more than {MEMORY / 1e6:.0f} MB to decode; scale it down, or"
                " encode it with fewer reference frames"
            )


def _ffmpeg() -> list[str]:
    return [ffmpeg_path(), "-hide_banner", "-loglevel", "error", "-nostdin"]
