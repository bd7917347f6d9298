"""The farm's files, wherever fsspec can put them: results, and the pictures and clips that jobs are given.

{job}.{attempt}.mp4, .json    what an attempt made; only the ledger's commit says which attempt is the result
inputs/{sha256}               what a job was given, named by its content
"""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

__all__ = ["Storage", "StorageError", "input_name"]

ATOMIC_PUT = frozenset({"abfs", "gcs", "gs", "memory", "s3", "s3a"})
"""Object stores, where a put shows the whole object or nothing."""
CHUNK = 1 << 20


class StorageError(Exception):
    """A file could not be stored or fetched: which, where, and why."""


def input_name(sha256: str) -> str:
    """Where a job's input of this content lies."""
    return f"inputs/{sha256}"


class Storage:
    """Files under a URL. Each appears whole under its final name, or not at all, here and where it is fetched to."""

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

    def exists(self, name: str) -> bool:
        """Whether a file of that name is here. Raises StorageError."""
        try:
            return bool(self._fs.exists(self._path(name)))
        except OSError as error:
            raise StorageError(f"cannot look for {name} in the storage {self.url}: {error}") from error

    def put(self, source: Path, name: str) -> None:
        """Stores a local file as `name`. Raises StorageError."""
        try:
            if ATOMIC_PUT.intersection(_protocols(self._fs)):
                self._fs.put_file(str(source), self._path(name))
            else:
                self._put_and_rename(source, self._path(name))
        except OSError as error:
            raise StorageError(f"could not store {name} in {self.url}: {error}") from error

    def get(self, name: str, target: Path, sha256: str) -> None:
        """Copies a file to `target` if its SHA-256 is the expected one.

        Raises StorageError when it cannot be read or is not the expected file, OSError when `target` cannot be
        written; either way `target` is as it was.
        """
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        try:
            digest = self._copy(name, temporary)
            if digest != sha256:
                raise StorageError(
                    f"{name} in {self.url} is not the file that was stored there (its SHA-256 differs);"
                    " it was changed or cut short"
                )
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Removes a file that is no longer wanted, if it is there. Raises StorageError."""
        try:
            if self._fs.exists(self._path(name)):
                self._fs.rm_file(self._path(name))
        except OSError as error:
            raise StorageError(f"could not remove {name} from {self.url}: {error}") from error

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _copy(self, name: str, target: Path) -> str:
        digest = hashlib.sha256()
        with target.open("xb") as output:
            try:
                with self._fs.open(self._path(name), "rb") as source:
                    while chunk := source.read(CHUNK):
                        digest.update(chunk)
                        output.write(chunk)
            except OSError as error:
                raise StorageError(f"cannot read {name} in the storage {self.url}: {error}") from error
        return digest.hexdigest()

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
