"""Run ffmpeg as a child process within limits of memory and time, and read its output whole or frame by frame."""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import psutil

from ltx_models.errors import MediaError, VideoError
from ltx_models.machine_faults import kind_in_output
from ltx_models.video import ffmpeg_path

__all__ = ["ffmpeg_lines", "read_frames", "run"]

MEMORY = 300_000_000
"""Bytes that ffmpeg may take while it reads a file, its code included."""
MAX_PIXELS = 140_000_000
"""Pixels of a frame beyond which ffmpeg does not begin: more do not fit in MEMORY, even at the least bytes a pixel."""
POLL = 0.02
"""Seconds between two checks of its memory."""
STALL_TIMEOUT = 120.0
"""Seconds without a frame after which ffmpeg is considered stalled."""
EXIT_TIMEOUT = 5.0
"""Seconds that ffmpeg has to exit after it closed its output."""
BLOCK = 1 << 20
HEADER = re.compile(rb"P6\n(\d+) (\d+)\n255\n")
LONGEST_HEADER = 40
SIZE = re.compile(r"Picture size (\d+)x(\d+)")
PREFIX = re.compile(r"^(\[[^]]*\] *)+")
"""The part of ffmpeg's message that names the component it comes from."""
LEVEL, GRAVE = re.compile(r"^[^]]*\[(info|verbose)\]"), re.compile(r"\[(error|fatal|panic)\]")
LONGEST_LINE = 10_000


class _Ended(Exception):
    """The output has ended."""


def run(arguments: Sequence[str], data: bytes) -> bytes:
    """Return ffmpeg's output for `data` on its standard input. Raise VideoError."""
    command = [*_ffmpeg(), *arguments]
    try:
        return subprocess.run(command, input=data, capture_output=True, check=True, timeout=STALL_TIMEOUT).stdout
    except OSError as error:
        raise VideoError(f"ffmpeg could not be started: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise VideoError(f"ffmpeg did not end within {STALL_TIMEOUT:g} s") from error
    except subprocess.CalledProcessError as error:
        words = error.stderr.decode(errors="replace").strip()[:500] or "it said nothing"
        raise VideoError(f"ffmpeg failed with exit code {error.returncode}: {words}", kind_in_output(words)) from error


def ffmpeg_lines(path: Path, source: Sequence[str], output: Sequence[str], said: list[str]) -> Iterator[str]:
    """Yield the lines that ffmpeg writes about a file.

    Args:
        path: The file.
        source: ffmpeg's options of the input.
        output: ffmpeg's options of the output.
        said: A list that receives ffmpeg's messages in the end.

    Raises:
        MediaError: As in `read_frames`, but not for a file of which ffmpeg writes nothing at all.
        VideoError: As in `read_frames`.
    """
    with _reading(path, ["-loglevel", "level+info", *_reader(path, source), *output]) as (output_of, ended):
        count = 0
        for line in output_of.lines():
            count += not line.startswith("#")
            yield line
        words = ended(count)
    said += words.splitlines()


def read_frames(
    path: Path, source: Sequence[str], output: Sequence[str], most: int, folder: Path | None = None
) -> Iterator[np.ndarray]:
    """Yield the first frames of a file, uint8 (H, W, 3) each, in the size that ffmpeg gives them.

    Args:
        path: The file.
        source: ffmpeg's options of the input.
        output: ffmpeg's options of the output, such as filters.
        most: The largest number of frames.
        folder: The folder of files that those options name, or None.

    Raises:
        MediaError: The file cannot be decoded, or takes ffmpeg more than MEMORY or too much time.
        VideoError: ffmpeg does not start, dies, or says that the machine lacks something.
    """
    # Each frame as a file of its own, which says its size.
    frames = ["-thread_queue_size", "1", "-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "pipe:1"]
    command = [*_reader(path, source), *output, "-frames:v", str(most), *frames]
    count = 0
    with _reading(path, command, folder) as (output_of, ended):
        while count < most and (frame := output_of.frame()) is not None:
            count += 1
            yield frame
        if count < most:
            said = ended(count)
            if not count:
                raise _nothing_read(path, said)


def _reader(path: Path, source: Sequence[str]) -> list[str]:
    # More threads of a decoder keep more frames, and so does a queue. Filters may have threads: they shorten theirs.
    bounds = ["-threads", "1", "-thread_queue_size", "1", "-max_pixels", str(MAX_PIXELS)]
    return [*bounds, "-protocol_whitelist", "file,pipe", *source, "-i", f"file:{path.absolute()}"]


@contextlib.contextmanager
def _reading(
    path: Path, arguments: Sequence[str], folder: Path | None = None
) -> Iterator[tuple[_Output, Callable[[int], str]]]:
    """Yield ffmpeg's output, and a function that waits for its end; end it in any case.

    Yields:
        The output, and a function that takes the number of results that were read, and returns ffmpeg's messages.
    """
    with tempfile.TemporaryFile() as words, _started([*_ffmpeg(), *arguments], words, folder) as process:

        def ended(count: int) -> str:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(EXIT_TIMEOUT)  # its own exit code tells whose fault it is
            process.kill()
            code = process.wait()
            words.seek(0)
            said = words.read().decode(errors="replace").strip()
            if code < 0 or (not count and kind_in_output(_errors(said))):
                # Of which kind, its words do not prove: a clip may have put them there.
                raise VideoError(f"ffmpeg failed with exit code {code} on {path}: {_reason(said)}")
            if code and not count:
                raise _nothing_read(path, said)
            return said

        try:
            yield _Output(path, process), ended
        finally:
            process.kill()


def _started(command: list[str], words: IO[bytes], folder: Path | None) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=words, cwd=folder)
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
        return MediaError(f"{path} cannot be read: it has no frames")
    return MediaError(f"{path} is damaged or cut off, and cannot be read: {_reason(said)}")


def _errors(said: str) -> str:
    """Return the messages that are errors, where ffmpeg names the level of each message."""
    lines = said.splitlines()
    return "\n".join(line for line in lines if GRAVE.search(line)) if any(map(LEVEL.search, lines)) else said


def _reason(said: str) -> str:
    """Return ffmpeg's first error; the later ones follow from it."""
    return PREFIX.sub("", _errors(said).partition("\n")[0])[:200] or "it said nothing"


class _Output:
    """The output of ffmpeg, read while its memory and progress are watched."""

    def __init__(self, path: Path, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self._path = path
        self._file = process.stdout.fileno()
        self._process = psutil.Process(process.pid)
        self._rest = b""

    def frame(self) -> np.ndarray | None:
        """Return the next frame, or None after the last. Raise MediaError."""
        give_up_at = time.monotonic() + STALL_TIMEOUT
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

    def lines(self) -> Iterator[str]:
        """Yield the lines of the output; of an endless one, its beginning. Raise MediaError."""
        rest = b""
        with contextlib.suppress(_Ended):
            while True:
                *lines, rest = (rest + self._read(BLOCK, time.monotonic() + STALL_TIMEOUT)).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines)
                rest = rest[:LONGEST_LINE]

    def _read(self, size: int, give_up_at: float) -> bytes:
        while not select.select([self._file], [], [], POLL)[0]:
            self._check(give_up_at)
        self._check(give_up_at)
        if not (data := os.read(self._file, size)):
            raise _Ended
        return data

    def _check(self, give_up_at: float) -> None:
        if time.monotonic() > give_up_at:
            raise MediaError(f"{self._path} cannot be read: ffmpeg made no progress for {STALL_TIMEOUT:g} s")
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
