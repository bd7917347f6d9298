"""A storage that is a folder, on this machine or a share: what is done through a handle on the folder itself, so that
a share that goes away in the middle is not mistaken for the empty folder under its mount point.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["flush", "make_folder", "measure", "measure_at", "opened", "read_at", "write_whole"]


@contextlib.contextmanager
def opened(folder: str) -> Iterator[int]:
    """Yield a handle on a folder, which stays on its file system whatever is mounted there meanwhile. Raise OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)


def read_at(folder: int, name: str, most: int) -> bytes:
    """Return a file's first bytes, `most` of them. Raise OSError."""
    with os.fdopen(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder), "rb") as file:
        return file.read(most)


def measure_at(folder: int, name: str) -> tuple[int, str]:
    """Return the size and the SHA-256 of a file as the disk or the server has it, as far as the system can be kept from
    answering out of its own memory. Raise OSError.
    """
    handle = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    with os.fdopen(handle, "rb") as file:
        _read_afresh(handle)
        return os.fstat(handle).st_size, hashlib.file_digest(file, "sha256").hexdigest()


def measure(path: Path) -> tuple[int, str]:
    """Return the size and the SHA-256 of a file. Raise OSError."""
    with path.open("rb") as file:
        return os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(folder: int, name: str) -> None:
    """Make a folder in a folder, unless it is there. Raise OSError."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, dir_fd=folder)


def write_whole(folder: str, name: str, data: bytes) -> None:
    """Write a file that appears whole, on the disk, under its name. Raise OSError."""
    temporary = Path(folder) / f".{name}.{secrets.token_hex(4)}"
    try:
        temporary.write_bytes(data)
        flush(str(temporary))
        temporary.replace(Path(folder) / name)
    finally:
        temporary.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # some shares cannot
        flush(folder)


def flush(path: str) -> None:
    """Have a file's content, or a folder's names, reach the disk. Raise OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read_afresh(handle: int) -> None:
    """Drop what the system remembers of a file that was flushed before. A system that cannot is no error."""
    with contextlib.suppress(OSError):
        if sys.platform == "darwin":
            import fcntl

            fcntl.fcntl(handle, fcntl.F_NOCACHE, 1)
        elif hasattr(os, "posix_fadvise"):
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
