"""The farm's files, wherever fsspec can put them: results, and the pictures and clips that jobs are given.

{job}.{attempt}.mp4, .json    what an attempt made; only the ledger's commit says which attempt is the result
inputs/{sha256}               what a job was given, named by its content
resume/{job}.{attempt}.{0|1}  what an attempt leaves for the next, where it is too large for Redis
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
from fsspec.implementations.local import LocalFileSystem

from ltx_client.protocol.redaction import know_url, shown_url
from ltx_client.protocol.s3 import S3, s3_errors, s3_options
from ltx_client.protocol.text import shown

__all__ = ["Entry", "Storage", "StorageError", "input_name", "receive"]

ATOMIC_PUT = frozenset({"abfs", "gcs", "gs", "memory", "s3", "s3a"})
"""Object stores, where a put shows the whole object or nothing."""
CHUNK = 1 << 20
PART = ".part"
"""How the temporary name of a file ends that is not whole yet."""


class Entry(NamedTuple):
    """A file: its name without its folder, bytes, and when it was written, in seconds since 1970, if that is known."""

    name: str
    size: int
    modified: float | None


class StorageError(Exception):
    """A file could not be stored or fetched: which, where, and why, without what is secret in what it quotes."""

    def __init__(self, message: str) -> None:
        super().__init__(shown(message))


def input_name(sha256: str) -> str:
    """Where a job's input of this content lies."""
    return f"inputs/{sha256}"


class Storage:
    """Files under a URL. Each appears whole under its final name, or not at all, here and where it is fetched to."""

    def __init__(self, url: str) -> None:
        know_url(url)
        self.url = shown_url(url)
        options = s3_options() if url.startswith(S3) else {}
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url, **options)
        except ImportError as error:
            extra = "; pip install 'ltx-farm[s3]'" if url.startswith(S3) else ""
            raise StorageError(f"{self.url} is not a storage URL that can be opened: {error}{extra}") from error
        except ValueError as error:
            raise StorageError(f"{self.url} is not a storage URL that can be opened: {error}") from error
        self._errors: tuple[type[Exception], ...] = (OSError, *(s3_errors() if url.startswith(S3) else ()))

    @property
    def local_folder(self) -> Path | None:
        """The folder that it is, on this machine or a share; None for an object store."""
        return Path(self._root) if isinstance(self._fs, LocalFileSystem) else None

    def check(self) -> None:
        """Raises StorageError unless a file can be written here."""
        probe = f"{self._root}/.probe-{secrets.token_hex(4)}"
        try:
            if not self._is_object_store:  # there are no folders there, and to make buckets is nobody's business
                self._fs.makedirs(self._root, exist_ok=True)
            self._fs.pipe_file(probe, b"")
            self._fs.rm_file(probe)
        except self._errors as error:
            raise StorageError(f"cannot write to the storage {self.url}: {error}") from error

    def exists(self, name: str) -> bool:
        """Whether a file of that name is here. Raises StorageError."""
        try:
            return bool(self._fs.exists(self._path(name)))
        except self._errors as error:
            raise StorageError(f"cannot look for {name} in the storage {self.url}: {error}") from error

    def names(self, folder: str) -> list[str]:
        """The names of the whole files in a folder; none where it is missing. Raises StorageError."""
        return sorted(name for name in self._entries(folder) if not name.endswith(PART))

    def _entries(self, folder: str) -> list[str]:
        path = self._path(folder)
        try:
            self._fs.invalidate_cache(path)
            found = self._fs.ls(path, detail=False) if self._fs.exists(path) else []
        except self._errors as error:
            raise StorageError(f"cannot list {folder} in the storage {self.url}: {error}") from error
        return [entry.rstrip("/").rpartition("/")[2] for entry in found]

    def entries(self, folder: str) -> list[Entry]:
        """The whole files in a folder, "" for the storage itself; none where it is missing. Raises StorageError."""
        path = self._path(folder).rstrip("/")
        try:
            self._fs.invalidate_cache(path)
            found = self._fs.ls(path, detail=True) if self._fs.exists(path) else []
        except self._errors as error:
            raise StorageError(f"cannot list {folder or 'the files'} in the storage {self.url}: {error}") from error
        entries = [
            Entry(info["name"].rstrip("/").rpartition("/")[2], info.get("size") or 0, _modified(info))
            for info in found
            if info["type"] == "file"
        ]
        return sorted(entry for entry in entries if not entry.name.endswith(PART))

    def unfinished(self, folder: str) -> list[str]:
        """The names of files in a folder of which a part lies there, since putting them was never finished. Raises
        StorageError.
        """
        return sorted({name[1:].rsplit(".", 2)[0] for name in self._entries(folder) if name.endswith(PART)})

    def put(self, source: Path, name: str) -> None:
        """Stores a local file as `name`. Raises StorageError."""
        try:
            if self._is_object_store:
                self._fs.put_file(str(source), self._path(name))
            else:
                self._put_and_rename(source, self._path(name))
        except self._errors as error:
            raise StorageError(f"could not store {name} in {self.url}: {error}") from error

    def get(self, name: str, target: Path, sha256: str, limit: int | None = None) -> None:
        """Copies a file to `target` if its SHA-256 is the expected one.  limit: bytes that it may have.

        Raises StorageError when it cannot be read or is not the expected file, OSError when `target` cannot be
        written; either way `target` is as it was.
        """
        receive(self.chunks(name), target, sha256, f"{name} in {self.url}", limit)

    def chunks(self, name: str) -> Iterator[bytes]:
        """A file's content. Raises StorageError."""
        try:
            with self._fs.open(self._path(name), "rb") as source:
                while chunk := source.read(CHUNK):
                    yield chunk
        except self._errors as error:
            raise StorageError(f"cannot read {name} in the storage {self.url}: {error}") from error

    def size(self, name: str) -> int | None:
        """Of a file, in bytes; None where there is none of that name. Raises StorageError."""
        try:
            return int(self._fs.size(self._path(name)))
        except FileNotFoundError:
            return None
        except self._errors as error:
            raise StorageError(f"cannot look for {name} in the storage {self.url}: {error}") from error

    def remove(self, name: str) -> None:
        """Removes a file that is no longer wanted, if it is there. Raises StorageError."""
        try:
            if self._fs.exists(self._path(name)):
                self._fs.rm_file(self._path(name))
        except self._errors as error:
            raise StorageError(f"could not remove {name} from {self.url}: {error}") from error

    def remove_unfinished(self, name: str) -> None:
        """Removes what putting `name` has left where the process was killed in the middle. Raises StorageError.

        No other process may be putting it now.
        """
        folder, _, base = self._path(name).rpartition("/")
        try:
            for path in self._fs.ls(folder, detail=False) if self._fs.exists(folder) else []:
                if path.rpartition("/")[2].startswith(f".{base}.") and path.endswith(PART):
                    self._fs.rm_file(path)
        except self._errors as error:
            raise StorageError(f"could not clear up after {name} in {self.url}: {error}") from error

    def sign(self, name: str, seconds: int) -> str | None:
        """A URL by which anybody can read the file for so long; None where the storage has no such thing.

        Asks nobody: whether the file is there, and whether we may read it, shows when the URL is used.
        """
        if not isinstance(self._fs.protocol, tuple) or "s3" not in self._fs.protocol:
            return None
        try:
            return str(self._fs.sign(self._path(name), expiration=seconds))
        except self._errors as error:
            raise StorageError(f"could not sign a link to {name} in {self.url}: {error}") from error

    @property
    def _is_object_store(self) -> bool:
        return not ATOMIC_PUT.isdisjoint(_protocols(self._fs))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _put_and_rename(self, source: Path, target: str) -> None:
        """A temporary name in the same folder first, flushed to the disk, then renamed."""
        folder, _, name = target.rpartition("/")
        temporary = f"{folder}/.{name}.{secrets.token_hex(4)}{PART}"
        self._fs.makedirs(folder, exist_ok=True)
        try:
            self._fs.put_file(str(source), temporary)
            if isinstance(self._fs, LocalFileSystem):
                _flush(temporary)
                os.replace(temporary, target)  # noqa: PTH105 — the names are strings here
                with contextlib.suppress(OSError):  # some shares cannot
                    _flush(folder)
            else:
                self._fs.mv(temporary, target)
        except self._errors:
            if self._fs.exists(temporary):
                self._fs.rm_file(temporary)
            raise


def receive(chunks: Iterator[bytes], target: Path, sha256: str, what: str, limit: int | None = None) -> None:
    """Writes what comes to `target` if its SHA-256 is the expected one; `what` names it for people.  limit: bytes that
    may come.

    Raises StorageError when it is not, OSError when `target` cannot be written; either way `target` is as it was.
    """
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}{PART}")
    digest = hashlib.sha256()
    try:
        with temporary.open("xb") as output:
            for chunk in chunks:
                digest.update(chunk)
                output.write(chunk)
                if limit is not None and output.tell() > limit:
                    raise StorageError(f"{what} has more than the {limit:,} bytes that it should have")
        if digest.hexdigest() != sha256:
            raise StorageError(
                f"{what} is not the file that was stored there (its SHA-256 differs); it was changed or cut short"
            )
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _protocols(fs: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _modified(info: dict[str, Any]) -> float | None:
    """When a file was written, in seconds since 1970; each file system has its own word for it."""
    for name in ("mtime", "LastModified", "last_modified", "modified", "updated", "created"):
        value = info.get(name)
        if isinstance(value, datetime.datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return None


def _flush(path: str) -> None:
    """Has a file's content, or a folder's names, reach the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
