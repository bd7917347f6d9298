"""The farm's files, wherever fsspec can put them: results, and the pictures and clips that jobs are given.

{attempt}.mp4, .json      what an attempt made; only the ledger's commit says which attempt is the result
inputs/{sha256}           what a job was given, named by its content
resume/{attempt}.{0|1}    what an attempt leaves for the next, where it is too large for Redis
.ltx-storage              by which the folder is known to be the farm's (`ltx_client.shared.storage.marker`)

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
"""Seconds, within which whoever wrote a probe has read it."""
_NAME = re.compile(r"(?:[0-9A-Za-z_][0-9A-Za-z._ -]{0,254})(?:/[0-9A-Za-z_][0-9A-Za-z._ -]{0,254})*")


class Entry(NamedTuple):
    """A file: its name without its folder, bytes, and when it was written, in seconds since 1970, if that is known."""

    name: str
    size: int
    modified: float | None


class DamagedSource(Exception):
    """The local file that was to be stored is not what it should be: which."""


def input_name(sha256: str) -> str:
    """Where a job's input of this content lies."""
    return f"inputs/{sha256}"


class Storage(StoragePlace):
    """Files under a URL. Each appears whole under its final name, or not at all, here and where it is fetched to."""

    def exists(self, name: str) -> bool:
        """Whether a file of that name is here. Raises StorageError."""
        return self.size(name) is not None

    def names(self, folder: str) -> list[str]:
        """The names of the whole files in a folder; none where it is missing. Raises StorageError."""
        return [entry.name for entry in self.entries(folder)]

    def entries(self, folder: str) -> list[Entry]:
        """The whole files in a folder, "" for the storage itself; none where it is missing. Raises StorageError."""
        return [entry for entry in self._entries(folder) if not entry.name.endswith(PART)]

    def unfinished(self, folder: str) -> list[str]:
        """The names of files in a folder of which a part lies there, since putting them was never finished. Raises
        StorageError.
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
        """Store a local file as `name`, and see that it is there: the storage's own word is not enough.

        sha256: of the file as it should be, where that is known.
        Raise StorageError (StorageAway where nothing was written), and DamagedSource where `source` is another file.
        """
        path = self._path(name)
        try:
            expected = measure(source)
        except FileNotFoundError as error:
            raise DamagedSource(f"there is no {source} any more") from error
        except OSError as error:
            raise StorageError(f"could not store {name} in {self.url}: {error}") from error
        if sha256 not in (None, expected[1]):
            raise DamagedSource(f"{source} is damaged: its SHA-256 is not the one that it had")
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
        """Raises StorageError, after removing what lies there, unless `name` is what was stored."""
        size, sha256 = self._read_back(name, root)
        if (size, sha256 or expected[1]) == expected:
            return
        with contextlib.suppress(*self._errors):
            self._remove(name, root)
        what = f"{size or 0} of {expected[0]} bytes are there" if size != expected[0] else "its content is another"
        raise StorageError(f"could not store {name} in {self.url}: it was taken, but {what}")

    def _see_it_is_still_there(self, name: str, root: int | None) -> None:
        """Raises StorageAway, after removing what was stored, where the URL leads elsewhere by now: nobody would find
        it, or it is under a mount point.
        """
        try:
            self.identify()
        except StorageAway:
            if root is not None:
                with contextlib.suppress(*self._errors):
                    self._remove(name, root)
            raise

    def holds(self, name: str, sha256: str, sizes: range) -> bool:
        """Whether a file of that content is here, and of one of these sizes. It is read for that, unless it is a large
        one of a storage that is no folder. Raises StorageError.
        """
        try:
            size = self.size(name)
        except DamagedFile:
            return False
        if size is None or size not in sizes:  # before it is read: it may be of any size
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
        """Copies a file to `target` if its SHA-256 is the expected one.  limit: bytes that it may have.

        Raises StorageError when it cannot be read or is not the expected file, OSError when `target` cannot be
        written; either way `target` is as it was.
        """
        receive(self.chunks(name), target, sha256, f"{name} in {self.url}", limit)

    def chunks(self, name: str) -> Iterator[bytes]:
        """A file's content. Raises StorageError."""
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
        """A file's size in bytes, or None when it is not there. Raises StorageError."""
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
        """Removes a file that is no longer wanted, if it is there. Raises StorageError."""
        self._path(name)
        self._take_away(name)

    def remove_unfinished(self, name: str) -> None:
        """Removes what putting `name` has left where the process was killed in the middle. Raises StorageError.

        No other process may be putting it now.
        """
        self._path(name)
        folder, _, base = name.rpartition("/")
        with self._present():
            for entry in self._entries(folder):
                if entry.name.startswith(f".{base}.") and entry.name.endswith(PART):
                    self._take_away(f"{folder}/{entry.name}".lstrip("/"))

    def probes(self) -> list[str]:
        """The names of what `check` has left, where it was killed or could not remove it: an hour ago at least, by this
        machine's clock. Raises StorageError.
        """
        probes = [entry for entry in self._entries("") if entry.name.startswith(PROBE)]
        return [entry.name for entry in probes if (entry.modified or 0.0) < time.time() - PROBE_TIME]

    def remove_probe(self, name: str) -> None:
        """Removes one of `probes`, if it is there. Raises StorageError."""
        self._take_away(name)

    def _take_away(self, name: str) -> None:
        with self._present() as root:
            try:
                self._remove(name, root)
            except self._errors as error:
                raise StorageError(f"could not remove {name} from {self.url}: {error}") from error

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

    def _expect(self, why: str) -> None:
        """Tells a storage that is away from one that is there, and has not the file. Raises StorageAway."""
        try:
            self.identify()
        except StorageAway as error:
            raise StorageAway(f"{why}: {error}") from error

    def _path(self, name: str) -> str:
        """Where a file lies. Raises StorageError for a name, whoever made it, that leads out of the storage."""
        if not _NAME.fullmatch(name):
            raise StorageError(f"{name[:100]!r} is not the name of a file of a storage")
        return f"{self._root}/{name}"

    def _put_and_rename(self, source: Path, name: str) -> None:
        """A temporary name in the same folder first, then renamed. The storage's own folder is never made here: it may
        be one that is not mounted.
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
    """Writes what comes to `target` if its SHA-256 is the expected one; `what` names it for people.  limit: bytes that
    may come. A device or a pipe gets nothing before all was checked.

    Raises StorageError when it is not, OSError when `target` cannot be written; either way `target` is as it was.
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
    """When a file was written, in seconds since 1970; each file system has its own word for it."""
    for name in ("mtime", "LastModified", "last_modified", "modified", "updated", "created"):
        value = info.get(name)
        if isinstance(value, datetime.datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return None
