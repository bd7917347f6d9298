"""Use a folder, on this machine or a share, as a storage.

Files are accessed through a handle on the folder itself, so that a share that goes away meanwhile is not mistaken for
the empty folder under its mount point.

Others may write into the folder. So below it no link is followed, and nothing but files is opened: what is read or
written stays inside the storage, and no pipe blocks its reader.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from ltx_models.files.output_files import PART

__all__ = [
    "PART",
    "NotRegular",
    "files_at",
    "flush",
    "measure",
    "measure_at",
    "open_at",
    "opened",
    "put_at",
    "read_at",
    "remove_at",
    "stat_at",
    "write_new_at",
    "write_whole_at",
]

CHUNK = 1 << 20
KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
"""The flags by which files and folders below a storage's folder are opened."""


class NotRegular(OSError):
    """Something other than a file, or a folder, is in its place in a storage."""


@contextlib.contextmanager
def opened(folder: str) -> Iterator[int]:
    """Yield a handle on a folder, which stays on its file system whatever is mounted there meanwhile. Raise OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)


@contextlib.contextmanager
def _folder_at(root: int, name: str) -> Iterator[int]:
    """Yield a handle on a folder of a storage, "" for the storage itself. Raise OSError."""
    handle = os.dup(root)
    try:
        for part in filter(None, name.split("/")):
            _check_kind(_status(handle, part), stat.S_IFDIR, name)
            outer, handle = handle, os.open(part, FOLDER, dir_fd=handle)
            os.close(outer)
        yield handle
    finally:
        os.close(handle)


@contextlib.contextmanager
def _place_of(root: int, name: str) -> Iterator[tuple[int, str]]:
    """Yield a handle on the folder of a file, and the file's name in it. Raise OSError."""
    inside, _, base = name.rpartition("/")
    with _folder_at(root, inside) as folder:
        yield folder, base


def _status(folder: int, name: str) -> os.stat_result:
    return os.stat(name, dir_fd=folder, follow_symlinks=False)


def _check_kind(status: os.stat_result, kind: int, name: str) -> os.stat_result:
    found = stat.S_IFMT(status.st_mode)
    if found != kind:
        raise NotRegular(f"{name} is {KINDS.get(found, 'something else')}, not {KINDS[kind]}")
    return status


def stat_at(root: int, name: str) -> os.stat_result:
    """Return a file's status. Raise OSError, of which NotRegular is one."""
    with _place_of(root, name) as (folder, base):
        return _check_kind(_status(folder, base), stat.S_IFREG, name)


def files_at(root: int, name: str) -> list[tuple[str, os.stat_result]]:
    """Return the names and statuses of a folder's files, "" for the storage itself. Raise OSError."""
    found = []
    with _folder_at(root, name) as folder, os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                found.append((entry.name, entry.stat(follow_symlinks=False)))
    return [(name, status) for name, status in found if stat.S_ISREG(status.st_mode)]


def open_at(root: int, name: str) -> BufferedReader:
    """Open a file to read it. Raise OSError, of which NotRegular is one."""
    with _place_of(root, name) as (folder, base):
        _check_kind(
            _status(folder, base), stat.S_IFREG, name
        )  # before it is opened, since opening a device may have effects
        file = os.fdopen(os.open(base, READ, dir_fd=folder), "rb")
    try:
        _check_kind(os.fstat(file.fileno()), stat.S_IFREG, name)
    except BaseException:  # also Ctrl-C: nobody else has the file yet
        file.close()
        raise
    return file


def read_at(root: int, name: str, most: int) -> bytes:
    """Return the first `most` bytes of a file. Raise OSError."""
    with open_at(root, name) as file:
        return file.read(most)


def measure_at(root: int, name: str) -> tuple[int, str]:
    """Return a file's size and SHA-256, read from the disk or the server as far as the system's cache can be bypassed.

    Raises:
        OSError: The file cannot be read.
    """
    with open_at(root, name) as file:
        _read_afresh(file.fileno())
        return os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()


def measure(path: Path) -> tuple[int, str]:
    """Return the size and the SHA-256 of a file. Raise OSError."""
    with path.open("rb") as file:
        return os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()


def put_at(root: int, name: str, source: Path) -> None:
    """Copy a local file into the storage: under a temporary name, flushed to the disk, then renamed.

    The file's folder is created if it is missing; the storage's own never is.

    Raises:
        OSError: It cannot be stored, and nothing is left of it.
    """
    inside, _, base = name.rpartition("/")
    if inside:
        with contextlib.suppress(FileExistsError):
            os.mkdir(inside, dir_fd=root)
    temporary = f".{base}.{secrets.token_hex(4)}{PART}"
    with _folder_at(root, inside) as folder:
        try:
            copy_in(source, folder, temporary)
            _rename(folder, temporary, base)
        except OSError:
            remove_at(folder, temporary)
            raise


def write_whole_at(root: int, name: str, data: bytes) -> None:
    """Write a file in the storage's own folder, which appears complete and on the disk. Raise OSError."""
    temporary = f".{name}.{secrets.token_hex(4)}"
    write_new_at(root, temporary, data)
    _rename(root, temporary, name)


def write_new_at(root: int, name: str, data: bytes) -> None:
    """Write a new file in the storage's own folder, on the disk. Raise OSError, and leave nothing then."""
    handle = os.open(name, NEW, 0o666, dir_fd=root)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(handle)
    except OSError:
        remove_at(root, name)
        raise


def copy_in(source: Path, folder: int, name: str) -> None:
    """Copy a local file to a new one in a folder, on the disk. Raise OSError."""
    with source.open("rb") as local, os.fdopen(os.open(name, NEW, 0o666, dir_fd=folder), "wb") as file:
        shutil.copyfileobj(local, file, CHUNK)
        file.flush()
        os.fsync(file.fileno())


def _rename(folder: int, name: str, new_name: str) -> None:
    os.replace(name, new_name, src_dir_fd=folder, dst_dir_fd=folder)
    with contextlib.suppress(OSError):  # some shares cannot
        os.fsync(folder)


def remove_at(root: int, name: str) -> None:
    """Remove a file, or what is in its place unless that is a folder, if it exists. Raise OSError."""
    with contextlib.suppress(FileNotFoundError), _place_of(root, name) as (folder, base):
        os.unlink(base, dir_fd=folder)


def flush(path: str) -> None:
    """Write a file's content, or a folder's names, to the disk. Raise OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read_afresh(handle: int) -> None:
    """Drop the system's cache of a file that was flushed before, if the system can."""
    with contextlib.suppress(OSError):
        if sys.platform == "darwin":
            import fcntl

            fcntl.fcntl(handle, fcntl.F_NOCACHE, 1)
        elif hasattr(os, "posix_fadvise"):
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
