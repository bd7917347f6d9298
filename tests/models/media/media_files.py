"""Make pictures and clips that are larger than their files."""

from __future__ import annotations

import struct
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
"""Of each pass of an interlaced PNG: the first column and row, and how far apart they are."""


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def compressed_text(name: bytes, size: int) -> bytes:
    """Return a zTXt, iTXt or iCCP chunk of so many bytes of text."""
    packer = zlib.compressobj(1)
    packed = b"".join(packer.compress(b"a" * 1_000_000) for _ in range(size // 1_000_000)) + packer.flush()
    return chunk(name, (b"k\0\1\0\0\0" if name == b"iTXt" else b"k\0\0") + packed)


def write_png(
    path: Path,
    size: tuple[int, int],
    colours: int = 2,
    bits: int = 8,
    *,
    interlaced: bool = False,
    before: bytes = b"",
    after: bytes = b"",
) -> Path:
    """Write a PNG of one colour.

    colours: PNG's number of their kind. before, after: chunks around the pixels.
    """
    width, height = size
    passes = ADAM7 if interlaced else [(0, 0, 1, 1)]
    packer = zlib.compressobj(1)
    data = b""
    for left, top, across, down in passes:
        part = -((left - width) // across), -((top - height) // down)
        for rows in _rows(*part, CHANNELS[colours] * bits):
            data += packer.compress(rows)
    header = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, interlaced)
    palette = chunk(b"PLTE", bytes(3 * 2**bits)) if colours == 3 else b""
    chunks = [
        chunk(b"IHDR", header),
        before,
        palette,
        chunk(b"IDAT", data + packer.flush()),
        after,
        chunk(b"IEND", b""),
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return path


def _rows(width: int, height: int, bits: int) -> Iterator[bytes]:
    row = b"\0" + b"\x55" * ((width * bits + 7) // 8)
    at_once = max(1, 4_000_000 // len(row))
    for start in range(0, height if width else 0, at_once):
        yield row * min(at_once, height - start)


def write_picture(path: Path, size: tuple[int, int], mode: str = "RGB", **options: object) -> Path:
    """Write a picture of one colour, in the format of its name's extension."""
    Image.new(mode, size, 90 if mode == "L" else (90, 60, 30, 255)[: len(mode)]).save(path, **options)  # type: ignore[arg-type]
    return path


def write_noise(path: Path, size: tuple[int, int]) -> Path:
    """Write a PNG that is hardly smaller than its pixels."""
    row = np.zeros((size[0], 3), np.uint8)
    row[: size[0] // 3] = np.random.default_rng(0).integers(0, 256, (size[0] // 3, 3), np.uint8)
    pixels = np.broadcast_to(row, (size[1], *row.shape)).copy()
    pixels ^= np.arange(size[1], dtype=np.uint8)[:, None, None] * 37
    Image.fromarray(pixels).save(path, compress_level=1)
    return path


def claim_size(path: Path, size: tuple[int, int]) -> Path:
    """Write another size into a GIF's header."""
    data = bytearray(path.read_bytes())
    data[6:10] = struct.pack("<HH", *size)
    path.write_bytes(data)
    return path


def write_clip(path: Path, size: str, *codec: str, frames: int = 9, colour: str = "testsrc2") -> Path:
    """Write a test clip, by ffmpeg's options of its codec."""
    run_ffmpeg("-f", "lavfi", "-i", f"{colour}=s={size}:r=30", "-frames:v", str(frames), *codec, str(path))
    return path


def run_ffmpeg(*arguments: str) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", "-nostdin", *arguments]
    subprocess.run(command, check=True, capture_output=True)
