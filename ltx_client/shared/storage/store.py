"""Store the farm's files, wherever fsspec can put them: results, and the pictures and clips that jobs read.

    {attempt}.mp4, .json, .jpg
                              what an attempt rendered; only the ledger's commit says which attempt is the result
    inputs/{sha256}           an input of a job, named by its content
    resume/{attempt}.{0|1}    a resume point that is too large for Redis
    .ltx-storage              marks the folder as the farm's (`ltx_client.shared.storage.marker`)

An attempt is {job}.{number}.{the first 12 digits of its token}; older versions left the token out.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ltx_client.shared.storage import folder as storage_folder
from ltx_client.shared.storage.folder import PART, NotRegular, measure
from ltx_client.shared.storage.place import PROBE, DamagedFile, StorageAway, StorageError, StoragePlace
from ltx_models.files.output_files import writing

__all__ = ["DamagedFile", "DamagedSource", "Entry", "Storage", "StorageAway", "StorageError", "input_name", "receive"]

CHUNK = 1 << 20
PROBE_TIME = 3600.0
"""Seconds within which whoever wrote a probe has read it."""
_NAME = re.compile(r"(?:[0-9A-Za-z_][0-9A-Za-z._ -]{0,254})(?:/[0-9A-Za-z_][0-9A-Za-z._ -]{0,254})*")


class Entry(NamedTuple):
    """A file in the storage.

    Attributes:
        name: Without its folder.
        size: Bytes.
        modified: When it was written, in seconds since 1970, if that is known.
    """

    name: str
    size: int
    modified: float | None


class DamagedSource(Exception):
    """The local file to be stored is not what it should be; the message says which."""


def input_name(sha256: str) -> str:
    """Return the name of the input with this SHA-256."""
    return f"inputs/{sha256}"


class Storage(StoragePlace):
    """Files under a URL. Each appears complete under its final name or not at all, here and where it is copied to."""

    def exists(self, name: str) -> bool:
        """Return whether a file with that name exists.

        Raises:
            StorageError: The storage cannot be read.
        """
        return self.size(name) is not None

    def names(self, folder: str) -> list[str]:
        """Return the names of the complete files in a folder; none if the folder is missing.

        Raises:
            StorageError: The storage cannot be read.
        """
        return [entry.name for entry in self.entries(folder)]

    def entries(self, folder: str) -> list[Entry]:
        """Return the complete files in a folder, "" for the storage itself; none if the folder is missing.

        Raises:
            StorageError: The storage cannot be read.
        """
        return [entry for entry in self._entries(folder) if not entry.name.endswith(PART)]

    def unfinished(self, folder: str) -> list[str]:
        """Return the names of files in a folder that were stored only in part.

        Raises:
            StorageError: The storage cannot be read.
        """
        parts = [entry.name for entry in self._entries(folder) if entry.name.endswith(PART)]
        return sorted({name[1:].rsplit(".", 2)[0] for name in parts})

    def _entries(self, folder: str) -> list[Entry]:
        path = self._path(folder) if folder else self._root
        try:
            with self._handle() as root:
                if root is not None:
                    files = storage_folder.files_at(root, folder)
                    return sorted(Entry(name, status.st_size, status.st_mtime) for name, status in files)
            self._fs.invalidate_cache(path)
            found = self._fs.ls(path, detail=True) if self._fs.exists(path) else []
        except FileNotFoundError:
            return []
        except self._errors as error:
            raise StorageError(f"cannot list {folder or 'the files'} in the storage {self.url}: {error}") from error
        return sorted(
            Entry(info["name"].rstrip("/").rpartition("/")[2], info.get("size") or 0, _modified(info))
            for info in found
            if info["type"] == "file"
        )

    def put(self, source: Path, name: str, sha256: str | None = None) -> None:
        """Store a local file as `name`, and verify it by reading it back.

        Args:
            source: The local file.
            name: Its name in the storage.
            sha256: The expected SHA-256 of `source`, in hex, if it is known.

        Raises:
            StorageError: It cannot be stored; StorageAway if nothing was written.
            DamagedSource: `source` has another SHA-256.
        """
        path = self._path(name)
        try:
            expected = measure(source)
        except FileNotFoundError as error:
            raise DamagedSource(f"{source} no longer exists") from error
        except OSError as error:
            raise StorageError(f"could not store {name} in {self.url}: {error}") from error
        if sha256 not in (None, expected[1]):
            raise DamagedSource(f"{source} is damaged: its SHA-256 has changed")
        with self._present() as root:
            try:
                if root is not None:
                    storage_folder.put_at(root, name, source)
                elif self._is_object_store:
                    self._fs.put_file(str(source), path)
                else:
                    self._put_and_rename(source, name)
                self._verify(name, expected, root)
                if not self._is_object_store:
                    self._see_it_is_still_there(name, root)
            except self._errors as error:
                raise StorageError(f"could not store {name} in {self.url}: {error}") from error

    def _verify(self, name: str, expected: tuple[int, str], root: int | None) -> None:
        """Raise StorageError, after removing the file, unless `name` is what was stored."""
        size, sha256 = self._read_back(name, root)
        if (size, sha256 or expected[1]) == expected:
            return
        with contextlib.suppress(*self._errors):
            self._remove(name, root)
        what = f"{size or 0} of {expected[0]} bytes are there" if size != expected[0] else "its content differs"
        raise StorageError(f"could not store {name} in {self.url}: it was accepted, but {what}")

    def _see_it_is_still_there(self, name: str, root: int | None) -> None:
        """Raise StorageAway, after removing what was stored, if the URL leads elsewhere by now."""
        try:
            self.identify()
        except StorageAway:
            if root is not None:
                with contextlib.suppress(*self._errors):
                    self._remove(name, root)
            raise

    def holds(self, name: str, sha256: str, sizes: range) -> bool:
        """Return whether a file has that content, and one of these sizes.

        The file is read for that, unless it is a large one in a storage that is not a folder.

        Args:
            name: The file's name.
            sha256: The expected SHA-256, in hex.
            sizes: The accepted sizes in bytes.

        Raises:
            StorageError: The storage cannot be read.
        """
        try:
            size = self.size(name)
        except DamagedFile:
            return False
        if size is None or size not in sizes:  # before it is read, since it may have any size
            return False
        with self._present() as root:
            try:
                read, found = self._read_back(name, root)
            except NotRegular:
                return False
            except self._errors as error:
                raise StorageError(f"cannot read {name} in the storage {self.url}: {error}") from error
        return read == size and found in (None, sha256)

    def get(self, name: str, target: Path, sha256: str, limit: int | None = None) -> None:
        """Copy a file to `target` if its SHA-256 is the expected one.

        Args:
            name: The file's name in the storage.
            target: The file to write.
            sha256: The expected SHA-256, in hex.
            limit: Bytes that it may have; None for any number.

        Raises:
            StorageError: It cannot be read, or is not the expected file; `target` is unchanged.
            OSError: `target` cannot be written, and is unchanged.
        """
        receive(self.chunks(name), target, sha256, f"{name} in {self.url}", limit)

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield a file's content.

        Raises:
            StorageError: It cannot be read.
        """
        try:
            with self._open(name) as source:
                while chunk := source.read(CHUNK):
                    yield chunk
        except NotRegular as error:
            raise DamagedFile(f"cannot read {name} in the storage {self.url}: {error}") from error
        except self._errors as error:
            if isinstance(error, FileNotFoundError):
                self._expect(f"cannot read {name}")
            raise StorageError(f"cannot read {name} in the storage {self.url}: {error}") from error

    @contextlib.contextmanager
    def _open(self, name: str) -> Iterator[BinaryIO]:
        path = self._path(name)
        with self._handle() as root:
            opening = self._reader.open(path, "rb") if root is None else storage_folder.open_at(root, name)
            with opening as source:
                yield source

    def size(self, name: str) -> int | None:
        """Return a file's size in bytes, or None if it does not exist.

        Raises:
            StorageError: The storage cannot be read.
        """
        path = self._path(name)
        try:
            with self._handle() as root:
                return int(self._fs.size(path)) if root is None else storage_folder.stat_at(root, name).st_size
        except FileNotFoundError:
            self._expect(f"cannot look for {name}")
            return None
        except NotRegular as error:
            raise DamagedFile(f"cannot look for {name} in the storage {self.url}: {error}") from error
        except self._errors as error:
            raise StorageError(f"cannot look for {name} in the storage {self.url}: {error}") from error

    def remove(self, name: str) -> None:
        """Remove a file, if it exists.

        Raises:
            StorageError: It cannot be removed.
        """
        self._path(name)
        self._take_away(name)

    def remove_unfinished(self, name: str) -> None:
        """Remove the parts of a file whose process was killed while storing it. No other process may be storing it now.

        Raises:
            StorageError: They cannot be removed.
        """
        self._path(name)
        folder, _, base = name.rpartition("/")
        with self._present():
            for entry in self._entries(folder):
                if entry.name.startswith(f".{base}.") and entry.name.endswith(PART):
                    self._take_away(f"{folder}/{entry.name}".lstrip("/"))

    def probes(self) -> list[str]:
        """Return the names of probes that `check` could not remove, an hour ago at least by this machine's clock.

        Raises:
            StorageError: The storage cannot be read.
        """
        probes = [entry for entry in self._entries("") if entry.name.startswith(PROBE)]
        return [entry.name for entry in probes if (entry.modified or 0.0) < time.time() - PROBE_TIME]

    def remove_probe(self, name: str) -> None:
        """Remove one of `probes`, if it exists.

        Raises:
            StorageError: It cannot be removed.
        """
        self._take_away(name)

    def _take_away(self, name: str) -> None:
        with self._present() as root:
            try:
                self._remove(name, root)
            except self._errors as error:
                raise StorageError(f"could not remove {name} from {self.url}: {error}") from error

    def sign(self, name: str, seconds: int) -> str | None:
        """Return a URL by which anybody can read the file for `seconds`; None if the storage has no such URLs.

        No server is asked: whether the file exists, and whether we may read it, shows when the URL is used.

        Raises:
            StorageError: The URL cannot be made.
        """
        if not isinstance(self._fs.protocol, tuple) or "s3" not in self._fs.protocol:
            return None
        try:
            return str(self._fs.sign(self._path(name), expiration=seconds))
        except self._errors as error:
            raise StorageError(f"could not sign a link to {name} in {self.url}: {error}") from error

    def _expect(self, why: str) -> None:
        """Raise StorageAway unless the storage is there and just lacks the file."""
        try:
            self.identify()
        except StorageAway as error:
            raise StorageAway(f"{why}: {error}") from error

    def _path(self, name: str) -> str:
        """Return a file's path. Raise StorageError for a name, whoever made it, that leads out of the storage."""
        if not _NAME.fullmatch(name):
            raise StorageError(f"{name[:100]!r} is not the name of a file of a storage")
        return f"{self._root}/{name}"

    def _put_and_rename(self, source: Path, name: str) -> None:
        """Store under a temporary name in the same folder, then rename.

        The storage's own folder is never created here: it may be a share that is not mounted.
        """
        target = self._path(name)
        folder, _, base = target.rpartition("/")
        temporary = f"{folder}/.{base}.{secrets.token_hex(4)}{PART}"
        if "/" in name and not self._fs.exists(folder):
            self._fs.mkdir(folder, create_parents=False)
        try:
            self._fs.put_file(str(source), temporary)
            self._fs.mv(temporary, target)
        except self._errors:
            if self._fs.exists(temporary):
                self._fs.rm_file(temporary)
            raise


def receive(chunks: Iterator[bytes], target: Path, sha256: str, what: str, limit: int | None = None) -> None:
    """Write chunks to `target` if their SHA-256 is the expected one; a device or pipe gets nothing before that.

    Args:
        chunks: The content.
        target: The file to write.
        sha256: The expected SHA-256, in hex.
        what: What the file is, for people.
        limit: Bytes that may come; None for any number.

    Raises:
        StorageError: The content is another; `target` is unchanged.
        OSError: `target` cannot be written, and is unchanged.
    """
    digest = hashlib.sha256()
    with writing(target) as output:
        for chunk in chunks:
            digest.update(chunk)
            output.write(chunk)
            if limit is not None and output.tell() > limit:
                raise DamagedFile(f"{what} has more than the {limit:,} bytes that it should have")
        if digest.hexdigest() != sha256:
            raise DamagedFile(
                f"{what} is not the file that was stored there (its SHA-256 differs); it was changed or cut short"
            )


def _modified(info: dict[str, Any]) -> float | None:
    """Return when a file was written, in seconds since 1970, from whichever field its file system uses."""
    for name in ("mtime", "LastModified", "last_modified", "modified", "updated", "created"):
        value = info.get(name)
        if isinstance(value, datetime.datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return None
