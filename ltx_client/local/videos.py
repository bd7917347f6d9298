"""Create the embedded farm's own storage: a folder of this machine."""

from __future__ import annotations

from pathlib import Path

from ltx_client.errors import StorageUnreachable
from ltx_client.shared.private_files import write_private
from ltx_client.shared.storage.store import Storage, StorageError

__all__ = ["is_made", "make_storage"]


def make_storage(videos: Path, note: Path) -> None:
    """Create the folder and its marker, the first time or if the folder was removed.

    Args:
        videos: The folder.
        note: A file that records that this was done. So a disk that should be mounted at the folder, but is not, does
            not lead to another storage: workers find the folder without its marker, and say so.

    Raises:
        StorageUnreachable: It cannot be created.
    """
    if is_made(videos, note):
        return
    try:
        write_private(note, Storage(str(videos)).init() + "\n")
    except StorageError as error:
        raise StorageUnreachable(str(error)) from None


def is_made(videos: Path, note: Path) -> bool:
    """Return whether the folder was created, and still exists."""
    return note.exists() and videos.exists()
