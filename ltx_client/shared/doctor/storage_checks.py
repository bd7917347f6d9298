"""Check the farm's storage, and this machine's own folder, for doctors of clients and workers alike."""

from __future__ import annotations

import errno
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ltx_client.protocol.redaction import shown_url
from ltx_client.protocol.workers import WorkerInfo
from ltx_client.shared.doctor.checks import Check, Finding, Level
from ltx_client.shared.doctor.folder_probe import probe_folder
from ltx_client.shared.storage.store import Storage, StorageError

__all__ = ["StorageChecks", "different_storages", "space"]

LITTLE = 10 * 10**9
"""Bytes that should be free."""
MORE_SPACE = "ltx gc --older-than 7d, or free space on the disk"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
TOO_LITTLE = 500 * 10**6
"""Free bytes below which a video may not fit."""


class StorageChecks:
    """Checks of the farm's storage."""

    def __init__(
        self, url: str | None, *, is_coming: bool = False, workers: Callable[[], Sequence[WorkerInfo]] = list
    ) -> None:
        """Check the storage at `url`.

        Args:
            url: The storage's URL; None if none is set.
            is_coming: Whether it is this machine's own folder, which is created when it is first needed.
            workers: Return the farm's live workers.
        """
        self._url = url
        self._is_coming = is_coming
        self._workers = workers

    def checks(self) -> list[Check]:
        """Return all checks."""
        return [self.storage]

    def storage(self) -> Iterator[Finding]:
        """Check whether the storage is there and can be written, and how much space is free, if that is known."""
        if self._url is None:
            yield Finding(
                "storage",
                Level.FAILURE,
                "none is set: videos cannot be downloaded, and pictures cannot be sent",
                "ltx config set storage_url URL, as the workers have it",
            )
            return
        if self._is_coming:
            yield Finding("storage", Level.OK, f"{self._url} is created when the first job is rendered")
            return
        shown = shown_url(self._url)
        fix = "ltx config set storage_url URL, as the workers have it"
        try:
            storage = Storage(self._url)
            folder = storage.local_folder
            if folder and isinstance(failed := probe_folder(folder), TimeoutError):
                text = f"{shown}: {failed.strerror}; the server of its share does not answer"
                yield Finding(
                    "storage", Level.FAILURE, text, "mount it again when its server answers (umount -f first)"
                )
                return
            fix = f"mount the farm's share there; for a new storage: ltx storage init {shlex.quote(shown)}"
            storage_id = storage.identify()
            fix = "let this user write there, or set another storage_url"
            storage.check()
        except (StorageError, OSError) as error:
            full = isinstance(error.__cause__, OSError) and error.__cause__.errno in NO_SPACE
            yield Finding("storage", Level.FAILURE, str(error), MORE_SPACE if full else fix)
            return
        if different := different_storages(self._workers(), storage_id):
            yield different
        if storage.local_folder is None:
            yield Finding("storage", Level.OK, f"{shown} can be written")
        else:
            yield space("storage", storage.local_folder)


def different_storages(workers: Sequence[WorkerInfo], here: str = "") -> Finding | None:
    """Return a finding if workers have different storages, or another one than the storage with the id `here`."""
    users: dict[str, list[str]] = {here: ["this machine"]} if here else {}
    for worker in workers:
        if worker.storage:
            users.setdefault(worker.storage, []).append(worker.name)
    if len(users) < 2:
        return None
    told = "; ".join(f"{one[:8]}… of {', '.join(names)}" for one, names in users.items())
    text = f"not all have the same storage, so some videos cannot be downloaded: {told}"
    fix = "mount the farm's share, or set LTX_STORAGE_URL, where it is wrong (ltx storage check prints a storage's id)"
    return Finding("storage", Level.FAILURE, text, fix)


def space(about: str, folder: Path) -> Finding:
    """Return how much is free in the file system of an existing folder."""
    free = shutil.disk_usage(folder).free
    text = f"{folder}: {free / 1e9:,.1f} GB free"
    if free < TOO_LITTLE:
        return Finding(about, Level.FAILURE, text, MORE_SPACE)
    if free < LITTLE:
        return Finding(about, Level.WARNING, text, "ltx gc --older-than 30d, or free space on the disk")
    return Finding(about, Level.OK, f"{folder} can be written, {free / 1e9:,.0f} GB free")
