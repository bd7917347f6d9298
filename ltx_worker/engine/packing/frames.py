"""Write and read frames over a pipe: a head of JSON, and beside it blobs, bytes that nobody encodes or copies.

    "LTX" 1 | size of the head, number of blobs (4 bytes each) | size of each blob (8 bytes) | the head | the blobs

Numbers are little-endian. Sizes are checked before anything is allocated for them.
"""

from __future__ import annotations

import io
import os
import select
import struct
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import BinaryIO

__all__ = ["BadFrame", "read_frame", "write_frame"]

MAGIC = b"LTX\x01"
COUNTS = struct.Struct("<II")
LARGEST_HEAD = 16 * 2**20
"""Bytes of a head."""
MOST_BLOBS = 256
LARGEST = 2**30
"""Bytes of all blobs of a frame together."""
PIECES = 64
"""How many pieces are given to one system call; 1024 are allowed."""


class BadFrame(ValueError):
    """Bytes that are no frame, or more of them than a frame may have; the message says which."""


def write_frame(pipe: Connection, head: bytes, blobs: Sequence[bytes] = (), *, patience: float | None = None) -> None:
    """Write one frame; nothing of a frame that is too large.

    Args:
        pipe: The pipe's end.
        head: JSON.
        blobs: What lies beside it.
        patience: Seconds for which the other side may read nothing, where the pipe's end does not block; None for any
            time.

    Raises:
        BadFrame: It is larger than a frame may be.
        TimeoutError: The other side has read nothing for `patience` seconds. A part of the frame may be written, so
            the pipe is of no more use.
        OSError: The other side is gone.
    """
    sizes = [len(blob) for blob in blobs]
    _check(len(head), sizes)
    start = MAGIC + COUNTS.pack(len(head), len(sizes)) + _sizes(len(sizes)).pack(*sizes)
    rest = [memoryview(piece) for piece in (start + head, *blobs) if piece]
    while rest:
        try:
            written = os.writev(pipe.fileno(), rest[:PIECES])
        except BlockingIOError:
            _wait(pipe, patience)
            continue
        while rest and written >= len(rest[0]):
            written -= len(rest.pop(0))
        if written:
            rest[0] = rest[0][written:]


def read_frame(pipe: Connection) -> tuple[bytes, list[bytes]]:
    """Return the head and the blobs of the next frame.

    Raises:
        BadFrame: What comes is no frame, or larger than one may be. Where the next one begins is unknown then.
        EOFError: The other side is gone, perhaps in the middle of a frame.
        OSError: The pipe is closed on this side.
    """
    # A buffer of one byte: nothing of the next frame is read, and large pieces are read where they stay.
    with io.BufferedReader(io.FileIO(pipe.fileno(), closefd=False), buffer_size=1) as file:
        if (magic := _read(file, len(MAGIC))) != MAGIC:
            raise BadFrame(f"it does not begin as a frame does, but with {magic!r}")
        size, count = COUNTS.unpack(_read(file, COUNTS.size))
        _check(size, [0] * min(count, MOST_BLOBS + 1))
        table = _sizes(count)
        sizes = table.unpack(_read(file, table.size))
        _check(size, sizes)
        head = _read(file, size)
        return head, [_read(file, each) for each in sizes]


def _sizes(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}Q")


def _check(head: int, blobs: Sequence[int]) -> None:
    if head > LARGEST_HEAD:
        raise BadFrame(f"its head has {head:,} bytes, and {LARGEST_HEAD:,} are the most")
    if len(blobs) > MOST_BLOBS:
        raise BadFrame(f"it has more than {MOST_BLOBS} blobs")
    if sum(blobs) > LARGEST:
        raise BadFrame(f"its blobs have {sum(blobs):,} bytes, and {LARGEST:,} are the most")


def _read(file: BinaryIO, size: int) -> bytes:
    data = file.read(size) if size else b""
    if len(data) < size:
        raise EOFError
    return data


def _wait(pipe: Connection, patience: float | None) -> None:
    """Wait until something can be written."""
    poll = select.poll()
    poll.register(pipe.fileno(), select.POLLOUT)
    if not poll.poll(None if patience is None else patience * 1000):
        raise TimeoutError(f"the other side of the pipe has read nothing for {patience:g} s")
