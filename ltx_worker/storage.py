"""Where results go: any place that fsspec can write."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

__all__ = ["Storage", "StorageError"]

ATOMIC_PUT = frozenset({"abfs", "gcs", "gs", "memory", "s3", "s3a"})
"""Object stores, where a put shows the whole object or nothing."""


class StorageError(Exception):
    """A file could not be stored: which, where, and why."""


class Storage:
    """Writes files under a URL, each appearing whole under its final name or not at all."""

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise StorageError(f"{url} is not a storage URL that can be opened: {error}") from error

    def check(self) -> None:
        """Raises StorageError unless a file can be written here."""
        probe = f"{self._root}/.probe-{secrets.token_hex(4)}"
        try:
            self._fs.makedirs(self._root, exist_ok=True)
            self._fs.pipe_file(probe, b"")
            self._fs.rm_file(probe)
        except OSError as error:
            raise StorageError(f"cannot write to the storage {self.url}: {error}") from error

    def put(self, source: Path, name: str) -> None:
        """Stores a local file as `name`. Raises StorageError."""
        target = f"{self._root}/{name}"
        try:
            if ATOMIC_PUT.intersection(_protocols(self._fs)):
                self._fs.put_file(str(source), target)
            else:
                self._put_and_rename(source, target)
        except OSError as error:
            raise StorageError(f"could not store {name} in {self.url}: {error}") from error

    def remove(self, name: str) -> None:
        """Removes a file that is no longer wanted, if it is there."""
        target = f"{self._root}/{name}"
        try:
            if self._fs.exists(target):
                self._fs.rm_file(target)
        except OSError as error:
            raise StorageError(f"could not remove {name} from {self.url}: {error}") from error

    def _put_and_rename(self, source: Path, target: str) -> None:
        """A temporary name in the same folder first, flushed to the disk, then renamed."""
        folder, _, name = target.rpartition("/")
        temporary = f"{folder}/.{name}.{secrets.token_hex(4)}.part"
        self._fs.makedirs(folder, exist_ok=True)
        try:
            self._fs.put_file(str(source), temporary)
            if isinstance(self._fs, LocalFileSystem):
                _flush(temporary)
                os.replace(temporary, target)  # noqa: PTH105 — the names are strings here
            else:
                self._fs.mv(temporary, target)
        except OSError:
            if self._fs.exists(temporary):
                self._fs.rm_file(temporary)
            raise


def _protocols(fs: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _flush(path: str) -> None:
    with Path(path).open("rb") as file:
        os.fsync(file.fileno())
