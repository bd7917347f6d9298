"""Write a file that a person has named: whole or not at all, through links, and into devices and pipes as they are.

Needs no MLX: the client, the worker and the model library all write with it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import select
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

__all__ = ["MP4", "PART", "STDERR", "STDOUT", "Content", "descriptor", "destination", "kind_of", "writing"]

PART = ".part"
"""The suffix of the temporary name of a file that is not complete yet."""
STDOUT, STDERR = Path("/dev/stdout"), Path("/dev/stderr")
CHUNK = 1 << 20
IN_MEMORY = 64 << 20
"""Bytes for a device or a pipe that are kept in memory until all are written; a temporary file takes more."""
MOST_LINKS = 40
"""The most links that are followed one after another, as many as Linux follows."""
_DESCRIPTOR = re.compile(
    r"//?dev/std(?P<name>in|out|err)|(?://?dev|//?proc/(?:self|thread-self|(?P<pid>\d+)))/fd/(?P<number>\d{1,9})"
)
_SUFFIX = re.compile(r"\.(?=.*[^\W\d])\w{1,8}", re.DOTALL)
"""A suffix that tells a file's content, unlike the end of `ball-v1.5` or of a sentence."""


class Content(NamedTuple):
    """A kind of content: its name in words, and the suffixes of its files."""

    words: str
    suffixes: tuple[str, ...]

    def why_not(self, path: Path) -> str:
        """Return why a file of this content must not have that name, or "" where it may."""
        suffix = path.suffix.strip()
        if not _SUFFIX.fullmatch(suffix) or suffix.lower() in self.suffixes:
            return ""
        right = path.stem + self.suffixes[0]
        return f"the name {path.name} is invalid: it ends in {suffix}, but {self.words} is written there; use {right}"


MP4 = Content("an MP4", (".mp4", ".m4v"))
_NUMBERS = {"in": 0, "out": 1, "err": 2}


def descriptor(path: Path) -> int | None:
    """Return the number of the open file that a path such as /dev/stdout or /dev/fd/3 means, or None."""
    try:
        match = _DESCRIPTOR.fullmatch(os.path.abspath(path))  # noqa: PTH100 - of the text alone; links are not followed
    except FileNotFoundError:  # the folder in which this process is was removed
        return None
    if match is None or match["pid"] not in (None, str(os.getpid())):
        return None
    return _NUMBERS[match["name"]] if match["name"] else int(match["number"])


def destination(path: Path) -> Path:
    """Return the end of the links that a path names, which need not exist; a path of `descriptor` ends them too.

    Raises:
        OSError: The links form a loop, or one cannot be read.
    """
    for _ in range(MOST_LINKS):
        if descriptor(path) is not None or not stat.S_ISLNK(_mode(path)):
            return path
        path = path.parent / path.readlink()
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))


def kind_of(path: Path) -> int:
    """Return the file type of what a path leads to, as `stat.S_IFMT` gives it; 0 for nothing. Raise OSError."""
    return stat.S_IFMT(_mode(path, follow_symlinks=True))


def _mode(path: Path, *, follow_symlinks: bool = False) -> int:
    try:
        return os.stat(path, follow_symlinks=follow_symlinks).st_mode  # noqa: PTH116 - raises for all but what is not there
    except FileNotFoundError:
        return 0
    except ValueError:  # a NUL, or what the file system cannot encode
        raise OSError(errno.EINVAL, "the name is invalid", str(path)) from None


@contextlib.contextmanager
def writing(path: Path, *, wait: bool = True) -> Iterator[IO[bytes]]:
    """Yield a file whose content is at `path` when the block ends; when the block raises, `path` is unchanged.

    A link is followed. A file is replaced in one step, and the new one has its permissions. What is not a file, such as
    a device or a pipe, is written to in the end.

    Args:
        path: The destination.
        wait: Wait for a reader of a named pipe; otherwise a pipe without one is an OSError, ENXIO.

    Raises:
        OSError: The file cannot be written.
    """
    there = destination(path)
    number = descriptor(there)
    if number is None and kind_of(there) in (0, stat.S_IFREG):
        with _replacing(there) as file:
            yield file
        return
    with tempfile.SpooledTemporaryFile(IN_MEMORY) as file:
        yield file
        file.seek(0)
        flags = os.O_WRONLY | os.O_NOCTTY | (0 if wait else os.O_NONBLOCK)
        _pour(file, os.open(there, flags) if number is None else os.dup(number))


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    temporary = path.with_name(f".{secrets.token_hex(8)}{PART}")  # short: the name itself may be as long as any can be
    try:
        with temporary.open("xb") as file:
            with contextlib.suppress(FileNotFoundError):
                _take_permissions(file.fileno(), path.stat())
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _take_permissions(handle: int, of: os.stat_result) -> None:
    """Give a new file the owner, as far as this user may, and the permissions of the file that it replaces."""
    with contextlib.suppress(OSError):
        if (of.st_uid, of.st_gid) != (os.geteuid(), os.getegid()):
            os.fchown(handle, of.st_uid, of.st_gid)
    with contextlib.suppress(OSError):  # some shares and disks have no permissions
        os.fchmod(handle, stat.S_IMODE(of.st_mode) & 0o777)


def _pour(source: IO[bytes], handle: int) -> None:
    """Write all of a file to an open one, which may be slow, non-blocking, or both."""
    with open(handle, "wb", buffering=0) as output:
        while chunk := memoryview(source.read(CHUNK)):
            while chunk:
                written = output.write(chunk)
                if written is None:
                    select.select([], [output], [])
                else:
                    chunk = chunk[written:]
