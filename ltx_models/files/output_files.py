"""Writes a file that a person has named: whole or not at all, through links, and into devices and pipes as they are.

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
"""How the temporary name of a file ends that is not whole yet."""
STDOUT, STDERR = Path("/dev/stdout"), Path("/dev/stderr")
CHUNK = 1 << 20
IN_MEMORY = 64 << 20
"""Bytes for a device or a pipe that are kept in memory until all are there; more of them wait in a temporary file."""
MOST_LINKS = 40
"""Links that are followed one after another, as many as Linux follows."""
_DESCRIPTOR = re.compile(
    r"//?dev/std(?P<name>in|out|err)|(?://?dev|//?proc/(?:self|thread-self|(?P<pid>\d+)))/fd/(?P<number>\d{1,9})"
)
_SUFFIX = re.compile(r"\.(?=.*[^\W\d])\w{1,8}", re.DOTALL)
"""What says what is in a file. Not the end of `ball-v1.5`, nor of a sentence."""


class Content(NamedTuple):
    """What is written, in words, and how names of files with it end."""

    words: str
    suffixes: tuple[str, ...]

    def why_not(self, path: Path) -> str:
        """Return why a file with this in it should not have that name; nothing where it may."""
        suffix = path.suffix.strip()
        if not _SUFFIX.fullmatch(suffix) or suffix.lower() in self.suffixes:
            return ""
        right = path.stem + self.suffixes[0]
        return f"{path.name} ends in {suffix}, and what is written there is {self.words}; name it {right}"


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
    """Return where the links that a path names lead, one after another: to what need not exist, or to a path of
    `descriptor`. Raise OSError.
    """
    for _ in range(MOST_LINKS):
        if descriptor(path) is not None or not stat.S_ISLNK(_mode(path)):
            return path
        path = path.parent / path.readlink()
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))


def kind_of(path: Path) -> int:
    """Return what a path leads to, as `stat.S_IFMT` says it; 0 for nothing. Raise OSError."""
    return stat.S_IFMT(_mode(path, follow_symlinks=True))


def _mode(path: Path, *, follow_symlinks: bool = False) -> int:
    try:
        return os.stat(path, follow_symlinks=follow_symlinks).st_mode  # noqa: PTH116 - raises for all but what is not there
    except FileNotFoundError:
        return 0
    except ValueError:  # a NUL, or what the file system cannot encode
        raise OSError(errno.EINVAL, "no file can have that name", str(path)) from None


@contextlib.contextmanager
def writing(path: Path, *, wait: bool = True) -> Iterator[IO[bytes]]:
    """Yield a file; when the block ends, what was written there is at `path`. When it raises, `path` is as it was.

    A link is followed. A file is replaced in one step, and the new one has its permissions. What is no file, such as a
    device or a pipe, is written to when all is there; a named pipe that nobody reads is waited for, unless `wait` is
    False: that is an OSError, ENXIO, then. Raise OSError.
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
    """Give a new file the owner, as far as this user may, and the permissions of the one that it replaces."""
    with contextlib.suppress(OSError):
        if (of.st_uid, of.st_gid) != (os.geteuid(), os.getegid()):
            os.fchown(handle, of.st_uid, of.st_gid)
    with contextlib.suppress(OSError):  # some shares and disks have no permissions
        os.fchmod(handle, stat.S_IMODE(of.st_mode) & 0o777)


def _pour(source: IO[bytes], handle: int) -> None:
    """Write all of a file to an open one, which may be one that has its reader's pace and does not wait for it."""
    with open(handle, "wb", buffering=0) as output:
        while chunk := memoryview(source.read(CHUNK)):
            while chunk:
                written = output.write(chunk)
                if written is None:
                    select.select([], [output], [])
                else:
                    chunk = chunk[written:]
