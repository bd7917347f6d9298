"""The embedded farm's own storage: a folder of this machine, made when the farm is first used."""

from __future__ import annotations

from pathlib import Path

from ltx_client.errors import StorageUnreachable
from ltx_client.shared.private_files import write_private
from ltx_client.shared.storage.store import Storage, StorageError

__all__ = ["is_made", "make_storage"]


def make_storage(videos: Path, note: Path) -> None:
    """Make the folder and its marker, the first time or where the folder was removed.

    note: a file by which it is known that this was done. So a disk that is to be mounted at the folder, and is not, is
    no reason to make another storage: workers find the folder without its marker, and say so. Raise StorageUnreachable.
    """
    if is_made(videos, note):
        return
    try:
        write_private(note, Storage(str(videos)).init() + "\n")
    except StorageError as error:
        raise StorageUnreachable(str(error)) from None


def is_made(videos: Path, note: Path) -> bool:
    """Return whether the folder was made, and is still there."""
    return note.exists() and videos.exists()
