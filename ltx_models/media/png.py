"""Leave out what is not needed to show a PNG: texts, private chunks, further frames.

Pillow and ffmpeg unpack all of them into memory, and Pillow refuses a valid picture because of a text that is too
large.
"""

from __future__ import annotations

import io
import shutil
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ltx_models.files.formats import PNG_SIGNATURE

__all__ = ["coded_as", "needed_of", "write_needed"]

CRITICAL = {b"IHDR": 13, b"PLTE": 768, b"IDAT": 2**31}
"""Chunks that a picture consists of, and the most bytes that each may have."""
NEEDED = (b"tRNS", b"iCCP", b"sRGB", b"gAMA", b"eXIf")
"""Chunks that tell how it is shown: transparency, colours, orientation. A damaged one is left out."""
LARGEST = 4 << 20
"""The most bytes of one of those, also unpacked."""
MOST_CHUNKS = 500_000
END = struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND"))


class _Piece(NamedTuple):
    """Bytes of the file; `end` is where they end in what is read."""

    start: int
    length: int
    end: int


def needed_of(file: BinaryIO) -> io.BufferedReader:
    """Return a file that reads like the PNG in `file`, without what is not needed.

    Little of it is in memory: the rest is read from `file` when it is asked for. Raise ValueError for a damaged one.
    """
    size = file.seek(0, 2)
    front = [PNG_SIGNATURE]
    pieces: list[_Piece] = []
    at, whole, number = len(PNG_SIGNATURE), True, 0
    while at + 8 <= size:
        file.seek(at)
        length, name = struct.unpack(">I4s", file.read(8))
        after = at + 12 + length
        if name == b"IEND" or (number := number + 1) > MOST_CHUNKS:
            break
        if name[:1].isupper() and length > CRITICAL.get(name, -1):
            raise ValueError(f"its part {name!r} is unknown, or too large")
        if name == b"IHDR" or (name == b"eXIf" and _is_sound(file, name, length)):  # wherever it is, before the pixels
            file.seek(at)
            front.append(file.read(12 + length))
        elif name in CRITICAL or (name in NEEDED and _is_sound(file, name, length)):
            _append(pieces, at, min(after, size) - at)
            whole = after <= size
        at = after
    if number > MOST_CHUNKS:
        raise ValueError(f"it has more than {MOST_CHUNKS:,} parts")
    return io.BufferedReader(_Needed(file, b"".join(front), pieces, END if whole else b""), 1 << 16)


def coded_as(file: BinaryIO) -> tuple[int, int] | None:
    """Return the numbers of a PNG's primaries and transfer function, by ITU-T H.273, or None without them."""
    at = len(PNG_SIGNATURE)
    for _ in range(MOST_CHUNKS):
        file.seek(at)
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IDAT":
            break
        length, name = struct.unpack(">I4s", head)
        if name == b"cICP" and length == 4 and _is_sound(file, name, length):
            file.seek(at + 8)
            primaries, transfer, *_ = file.read(4)
            return primaries, transfer
        at += 12 + length
    return None


def write_needed(file: BinaryIO, path: Path) -> None:
    """Write what `needed_of` reads to a file."""
    with path.open("wb") as copy:
        shutil.copyfileobj(needed_of(file), copy, 1 << 20)


def _append(pieces: list[_Piece], start: int, length: int) -> None:
    end = pieces[-1].end if pieces else 0
    if pieces and pieces[-1].start + pieces[-1].length == start:
        last = pieces.pop()
        start, length, end = last.start, last.length + length, end - last.length
    pieces.append(_Piece(start, length, end + length))


def _is_sound(file: BinaryIO, name: bytes, length: int) -> bool:
    """Return whether the chunk whose content comes next is valid."""
    if length > LARGEST:
        return False
    data = file.read(length)
    if len(data) != length or file.read(4) != struct.pack(">I", zlib.crc32(name + data)):
        return False
    return name != b"iCCP" or _is_small(data.partition(b"\0")[2][1:])


def _is_small(packed: bytes) -> bool:
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(packed, LARGEST)
    except zlib.error:
        return False
    return unpacker.eof


class _Needed(io.RawIOBase):
    """A file that reads bytes, then pieces of another file, then bytes."""

    def __init__(self, file: BinaryIO, front: bytes, pieces: list[_Piece], back: bytes) -> None:
        self._file, self._front, self._pieces, self._back = file, front, pieces, back
        self._middle = pieces[-1].end if pieces else 0
        self._size = len(front) + self._middle + len(back)
        self._at = 0
        self._piece = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position, relative to the beginning, the current position, or the end."""
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        self._piece = 0
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read some of the bytes that come next."""
        data = self._next(len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _next(self, most: int) -> bytes:
        if self._at < len(self._front):
            return self._front[self._at : self._at + most]
        at = self._at - len(self._front)
        if at >= self._middle:
            return self._back[at - self._middle :][:most]
        while self._pieces[self._piece].end <= at:
            self._piece += 1
        piece = self._pieces[self._piece]
        self._file.seek(piece.start + piece.length - (piece.end - at))
        return self._file.read(min(most, piece.end - at))
