"""Read how long a clip is from its header, in plain Python, so that a client can say which seconds will be read.

What a worker reads is decided by the clip's frames (`ltx_models.media.streams`); a header may not name the length.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

from ltx_models.files.formats import GIF, HEAD_BYTES, MATROSKA, MOV, format_of

__all__ = ["clip_length", "is_only_sound"]

MOST_BOXES = 10_000
"""The most boxes of a file that are read: no more than a valid file has before its length."""
SEGMENT, INFO, SCALE, DURATION = 0x18538067, 0x1549A966, 0x2AD7B1, 0x4489
TRACKS, TRACK, TRACK_ID, TRACK_KIND = 0x1654AE6B, 0xAE, 0x73C5, 0x83
TAGS, TAG, TARGETS, TARGET_ID, SIMPLE_TAG, TAG_NAME, TAG_TEXT = (
    0x1254C367,
    0x7373,
    0x63C0,
    0x63C5,
    0x67C8,
    0x45A3,
    0x4487,
)
"""IDs of Matroska's elements."""
LONGEST = 64
"""The most bytes of a value that are read."""
PICTURES, SOUND = 1, 2
"""Matroska's track types: video and audio."""
SHORTEST_DELAY, DEFAULT_DELAY = 2, 10
"""The least delay of a GIF's frame in hundredths of a second, and the delay used for shorter ones, as in players."""
MOST_BLOCKS = 2_000_000
"""The most blocks of a GIF that are read."""


_Element = tuple[int, int, int]
"""An element of Matroska: its ID, and where its content begins and ends in the file."""


class _Box(NamedTuple):
    """A box: its name, and where its content begins and ends in the file."""

    name: bytes
    start: int
    end: int


class _TooMany(ValueError):
    """A file has too many boxes or blocks."""


def clip_length(file: BinaryIO) -> float | None:
    """Return the second at which the last frame of a clip ends; None where the header does not say, or is damaged."""
    file.seek(0)
    kind = format_of(file.read(HEAD_BYTES))
    readers = {MOV: _of_mov, MATROSKA: _of_matroska, GIF: _of_gif}
    try:
        length = readers[kind](file) if kind in readers else None
    except (struct.error, LookupError, ValueError, OverflowError, ZeroDivisionError, StopIteration):
        return None
    return length if length and 0 < length < math.inf else None


def is_only_sound(file: BinaryIO) -> bool:
    """Return whether a clip's header lists sound and nothing else; False where it is damaged."""
    file.seek(0)
    kind = format_of(file.read(HEAD_BYTES))
    size = file.seek(0, 2)
    try:
        if kind == MATROSKA:
            parts = [part for element in _elements(file, 0, size) for part in _inside(file, [element], SEGMENT, TRACKS)]
            kinds = {_values(file, track)[TRACK_KIND] for track in _inside(file, parts, TRACKS, TRACK)}
            return kinds == {bytes([SOUND])}
        moov = next(box for box in _boxes(file, 0, size) if box.name == b"moov")
        tracks = [box for box in _boxes(file, moov.start, moov.end) if box.name == b"trak"]
        inner = (box for track in tracks for outer, box in _of_track(file, track) if outer == b"mdia")
        return {_read(file, box.start + 8, 4) for box in inner if box.name == b"hdlr"} == {b"soun"}
    except (struct.error, LookupError, ValueError, OverflowError, StopIteration):
        return False


def _of_mov(file: BinaryIO) -> float | None:
    """Return the length of the first video track: of its edit list, else its own duration."""
    size = file.seek(0, 2)
    moov = next(box for box in _boxes(file, 0, size) if box.name == b"moov")
    movie_scale = 0
    for box in _boxes(file, moov.start, moov.end):
        if box.name == b"mvhd":
            movie_scale = _scale_and_duration(file, box)[0]
        elif box.name == b"trak":
            found = {(outer, inner.name): inner for outer, inner in _of_track(file, box)}
            if (handler := found.get((b"mdia", b"hdlr"))) and _read(file, handler.start + 8, 4) == b"vide":
                if (edits := found.get((b"edts", b"elst"))) and (length := _of_edits(file, edits)):
                    return length / movie_scale
                scale, duration = _scale_and_duration(file, found[b"mdia", b"mdhd"])
                return duration / scale
    return None


def _of_track(file: BinaryIO, track: _Box) -> Iterator[tuple[bytes, _Box]]:
    for box in _boxes(file, track.start, track.end):
        if box.name in (b"mdia", b"edts"):
            yield from ((box.name, inner) for inner in _boxes(file, box.start, box.end))


def _boxes(file: BinaryIO, at: int, end: int) -> Iterator[_Box]:
    for _ in range(MOST_BOXES):
        if at + 8 > end:
            return
        size, name = struct.unpack(">I4s", _read(file, at, 8))
        header = 8
        if size == 1:
            (size,), header = struct.unpack(">Q", _read(file, at + 8, 8)), 16
        size = size or end - at
        if size < header:
            raise ValueError
        yield _Box(name, at + header, min(at + size, end))
        at += size
    raise _TooMany


def _scale_and_duration(file: BinaryIO, box: _Box) -> tuple[int, int]:
    """Return the units a second and the duration of an mvhd or mdhd; 0 where unknown, as in fragmented files."""
    version, *_ = _read(file, box.start, 1)
    scale, duration = struct.unpack(">20xIQ" if version else ">12xII", _read(file, box.start, 32 if version else 20))
    return scale, 0 if duration >= (2**63 if version else 2**32 - 1) else duration


def _of_edits(file: BinaryIO, box: _Box) -> int:
    """Return the length of an edit list in the movie's units, with the delay before its first frame."""
    version, count = struct.unpack(">B3xI", _read(file, box.start, 8))
    entry = ">QqI" if version else ">IiI"
    size = struct.calcsize(entry)
    data = _read(file, box.start + 8, size * min(count, MOST_BOXES))
    return sum(struct.unpack_from(entry, data, at)[0] for at in range(0, len(data), size))


def _of_matroska(file: BinaryIO) -> float | None:
    """Return the length of the only track, or, of several, the one that a tag gives the video track.

    The file's own length may be that of its sound, which may be longer.
    """
    size = file.seek(0, 2)
    segment = next(element for element in _elements(file, 0, size) if element[0] == SEGMENT)
    parts = list(_elements(file, *segment[1:]))
    info = next(part for part in parts if part[0] == INFO)
    tracks = [_values(file, track) for track in _inside(file, parts, TRACKS, TRACK)]
    if len(tracks) > 1:
        shown = next(track[TRACK_ID] for track in tracks if int.from_bytes(track[TRACK_KIND], "big") == PICTURES)
        lengths = (_of_tag(file, tag, shown) for tag in _inside(file, parts, TAGS, TAG))
        return next(filter(None, lengths), None)
    scale, duration = 1_000_000, None
    values = _values(file, info)
    if SCALE in values:
        scale = int.from_bytes(values[SCALE], "big")
    if data := values.get(DURATION):
        (duration,) = struct.unpack(">f" if len(data) == 4 else ">d", data)
    return None if duration is None else duration * scale / 1e9


def _of_tag(file: BinaryIO, tag: _Element, track: bytes) -> float | None:
    """Return the length that a tag gives for a track, as in `00:00:03.022000000`; None where it gives none."""
    parts = [tag]
    if not any(_values(file, of).get(TARGET_ID) == track for of in _inside(file, parts, TAG, TARGETS)):
        return None
    for said in _inside(file, parts, TAG, SIMPLE_TAG):
        values = _values(file, said)
        if values.get(TAG_NAME) == b"DURATION":
            hours, minutes, seconds = values[TAG_TEXT].rstrip(b"\0").decode("ascii").split(":")
            return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    return None


def _inside(file: BinaryIO, parents: Iterable[_Element], parent: int, name: int) -> Iterator[_Element]:
    """Yield the elements with one ID inside those with another ID."""
    for found in parents:
        if found[0] == parent:
            yield from (element for element in _elements(file, *found[1:]) if element[0] == name)


def _values(file: BinaryIO, parent: _Element) -> dict[int, bytes]:
    """Return the short values in an element, by their IDs."""
    return {name: _read(file, start, min(end - start, LONGEST)) for name, start, end in _elements(file, *parent[1:])}


def _elements(file: BinaryIO, at: int, end: int) -> Iterator[_Element]:
    """Yield each element."""
    for _ in range(MOST_BOXES):
        if at + 2 > end:
            return
        name, name_size = _number(_read(file, at, 4), marker=True)
        length, length_size = _number(_read(file, at + name_size, 8), marker=False)
        start = at + name_size + length_size
        unknown = length == (1 << 7 * length_size) - 1
        at = end if unknown else min(end, start + length)
        yield name, start, at
    raise _TooMany


def _number(data: bytes, *, marker: bool) -> tuple[int, int]:
    """Return a number of EBML and its size; the first bit that is set tells how many bytes it has."""
    size = 9 - data[0].bit_length()
    value = int.from_bytes(data[:size], "big")
    if len(data) < size:
        raise ValueError
    return value if marker else value & ((1 << 7 * size) - 1), size


def _of_gif(file: BinaryIO) -> float | None:
    """Return the sum of the frames' delays."""
    file.seek(10)
    flags = file.read(3)[0]
    file.seek(13 + _palette(flags))
    total, delay = 0, 0
    for _ in range(MOST_BLOCKS):
        kind = file.read(1)
        if kind == b"!":
            label, data = file.read(1), _first_block(file)
            if label == b"\xf9":
                (delay,) = struct.unpack_from("<xH", data)
        elif kind == b",":
            file.seek(_palette(file.read(9)[8]) + 1, 1)
            _first_block(file)
            total += delay if delay >= SHORTEST_DELAY else DEFAULT_DELAY
        else:
            return total / 100
    raise _TooMany


def _palette(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _first_block(file: BinaryIO) -> bytes:
    """Return the first of a sequence of blocks, and move behind the last."""
    first = file.read(file.read(1)[0])
    size = len(first)
    while size:
        size = file.read(1)[0]
        file.seek(size, 1)
    return first


def _read(file: BinaryIO, at: int, size: int) -> bytes:
    file.seek(at)
    return file.read(size)
