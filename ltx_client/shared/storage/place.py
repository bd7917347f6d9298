"""Open a farm's storage by its URL, and recognize it by its marker."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltx_client.protocol.redaction import hide_url_secrets, shown_url
from ltx_client.protocol.text import shown
from ltx_client.shared.storage import folder
from ltx_client.shared.storage.marker import LONGEST, MARKER, Marker, new_marker, parse_marker
from ltx_client.shared.storage.s3 import S3, s3_errors, s3_options
from ltx_client.shared.storage.urls import check_storage_url
from ltx_models.files.volumes import unmounted_volume

if TYPE_CHECKING:
    import fsspec

__all__ = ["PROBE", "DamagedFile", "StorageAway", "StorageError", "StoragePlace"]

ATOMIC_PUT = frozenset({"abfs", "gcs", "gs", "memory", "s3", "s3a"})
"""Object stores, where a put shows the whole object or nothing."""
PROBE = ".probe-"
"""The prefix of the files that test whether a storage can be written."""
SMALL = 16 * 2**20
"""Bytes up to which a file is read back from a storage that is not a folder; of a larger one, the size is compared."""


class StorageError(Exception):
    """A file could not be stored or fetched: which, where, and why, without secrets."""

    def __init__(self, message: str) -> None:
        super().__init__(shown(message))


class StorageAway(StorageError):
    """The storage as a whole is missing, or another one: its marker is missing, or cannot be read."""


class DamagedFile(StorageError):
    """What is stored under a name is not what was put there: another content, another size, or not a file."""


class StoragePlace:
    """The place at a URL: a folder of this machine or a share, an object store, or another storage of fsspec's."""

    def __init__(self, url: str) -> None:
        """Open the place, without checking that it is there.

        Raises:
            StorageError: The URL is invalid.
        """
        import fsspec  # here and below: slow to import, and most commands open no storage
        from fsspec.implementations.cached import CachingFileSystem

        hide_url_secrets(url)
        self.url = shown_url(url)
        is_s3 = url.rpartition("::")[2].startswith(S3)
        options: dict[str, Any] = s3_options() if is_s3 else {}
        if is_s3 and "::" in url:
            options = {url.rpartition("::")[2].partition(":")[0]: options}
        try:
            check_storage_url(url)
        except ValueError as error:
            raise StorageError(f"the storage URL {error}") from None
        try:
            self._reader, self._root = fsspec.core.url_to_fs(url, **options)
        except ImportError as error:
            extra = "; pip install 'ltx-farm[s3]'" if is_s3 else ""
            raise StorageError(f"{self.url} is not a storage URL that can be opened: {error}{extra}") from error
        except (OSError, ValueError) as error:  # some connect at once
            raise StorageError(f"{self.url} is not a storage URL that can be opened: {error}") from error
        self._fs = self._reader
        while isinstance(self._fs, CachingFileSystem):  # no cache may answer what is written and whether it is there
            self._fs = self._fs.fs
        self._errors: tuple[type[Exception], ...] = (OSError, ValueError, *(s3_errors() if is_s3 else ()))
        self._id: str | None = None

    @property
    def local_folder(self) -> Path | None:
        """Return its folder, on this machine or a share; None for an object store."""
        return Path(self._root) if self._is_folder else None

    def init(self) -> str:
        """Make this place a storage, unless it is one, and return its id. A folder's parents must exist.

        Raises:
            StorageError: It cannot be created.
        """
        try:
            if self._is_folder:
                if volume := unmounted_volume(Path(self._root)):
                    raise StorageError(f"cannot make the storage {self.url}: nothing is mounted at {volume}")
                Path(self._root).mkdir(exist_ok=True)
            elif not self._is_object_store:
                self._fs.makedirs(self._root, exist_ok=True)
            with self._handle() as root:
                if self._marker(root) is not None:
                    pass
                elif root is not None:
                    folder.write_whole_at(root, MARKER, new_marker())
                else:
                    self._fs.pipe_file(f"{self._root}/{MARKER}", new_marker())
        except FileNotFoundError as error:
            missing = Path(self._root).parent if self._is_folder else self.url
            raise StorageError(f"cannot make the storage {self.url}: there is no {missing}") from error
        except FileExistsError as error:
            raise StorageError(f"cannot make the storage {self.url}: it is a file, not a folder") from error
        except self._errors as error:
            raise StorageError(f"cannot make the storage {self.url}: {error}") from error
        return self.identify()

    def identify(self) -> str:
        """Return the storage's id, which shows that it is there.

        Raises:
            StorageAway: It is not there.
        """
        with self._present():
            assert self._id is not None
            return self._id

    @property
    def known_id(self) -> str:
        """Return the storage's id, once it was there; empty before."""
        return self._id or ""

    def check(self) -> None:
        """Check that the storage is there, and that a file can be written and read back.

        Raises:
            StorageError: It is not there, or cannot be written.
        """
        name, content = f"{PROBE}{secrets.token_hex(4)}", secrets.token_bytes(16)
        with self._present("cannot write to the storage {}, which is away") as root:
            try:
                written = self._write_and_read(name, content, root)
            except self._errors as error:
                raise StorageError(f"cannot write to the storage {self.url}: {error}") from error
        if written != (len(content), hashlib.sha256(content).hexdigest()):
            raise StorageError(
                f"cannot write to the storage {self.url}: a file read back differs from what was written"
            )

    def _write_and_read(self, name: str, content: bytes, root: int | None) -> tuple[int | None, str | None]:
        """Return what is read of a file that is written, and removed whatever fails. Raise the file system's errors."""
        try:
            if root is not None:
                folder.write_new_at(root, name, content)
            else:
                self._fs.pipe_file(f"{self._root}/{name}", content)
            written = self._read_back(name, root)
        except self._errors:
            with contextlib.suppress(*self._errors):
                self._remove(name, root)
            raise
        self._remove(name, root)
        return written

    @contextlib.contextmanager
    def _present(self, told: str = "the storage {} is away") -> Iterator[int | None]:
        """Yield a handle on the storage's folder, if it is one, after reading its marker.

        Args:
            told: The beginning of the error's sentence, with braces for the URL.

        Raises:
            StorageAway: The storage is not there.
        """
        away = told.replace("{}", self.url)
        with contextlib.ExitStack() as stack:
            try:
                root = stack.enter_context(self._handle())
                marker = self._marker(root)
            except FileNotFoundError as error:
                raise StorageAway(f"{away}: there is no folder {self._root}; {self._advice}") from error
            except NotADirectoryError as error:
                raise StorageAway(f"{away}: it is a file, not a folder; {self._advice}") from error
            except self._errors as error:
                raise StorageAway(f"{away}: it cannot be read: {error}") from error
            if marker is None:
                raise StorageAway(f"{away}: no valid {MARKER} is in it; {self._advice}")
            if self._id not in (None, marker.id):
                raise StorageAway(f"{away}: it is not the one that was there before")
            self._id = marker.id
            yield root

    @property
    def _advice(self) -> str:
        url = "URL" if "***" in self.url else shlex.quote(self.url)
        what = "mount the farm's share there" if self._is_folder else "check the URL"
        return f"{what}, or, if this is the right place, run once: ltx storage init {url}"

    @contextlib.contextmanager
    def _handle(self) -> Iterator[int | None]:
        with folder.opened(self._root) if self._is_folder else contextlib.nullcontext() as root:
            yield root

    def _marker(self, root: int | None) -> Marker | None:
        """Return the marker; None if it is missing or damaged. Raise the file system's errors."""
        try:
            if root is not None:
                return parse_marker(folder.read_at(root, MARKER, LONGEST))
            with self._fs.open(f"{self._root}/{MARKER}", "rb") as file:
                return parse_marker(file.read(LONGEST))
        except FileNotFoundError:
            return None

    def _read_back(self, name: str, root: int | None) -> tuple[int | None, str | None]:
        """Return a file's size, None if it is missing, and its SHA-256; of a large file only if this is a folder."""
        try:
            if root is not None:
                return folder.measure_at(root, name)
            path = f"{self._root}/{name}"
            self._fs.invalidate_cache(path.rpartition("/")[0])
            size = int(self._fs.info(path)["size"])
            if size > SMALL:
                return size, None
            content = self._fs.cat_file(path)
            return len(content), hashlib.sha256(content).hexdigest()
        except FileNotFoundError:
            return None, None

    def _remove(self, name: str, root: int | None) -> None:
        """Remove a file, if it exists. Raise the file system's errors."""
        if root is not None:
            folder.remove_at(root, name)
        elif self._fs.exists(f"{self._root}/{name}"):
            self._fs.rm_file(f"{self._root}/{name}")

    @property
    def _is_folder(self) -> bool:
        from fsspec.implementations.local import LocalFileSystem

        return isinstance(self._fs, LocalFileSystem)

    @property
    def _is_object_store(self) -> bool:
        return not ATOMIC_PUT.isdisjoint(_protocols(self._fs))


def _protocols(fs: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
