"""Run `ltx storage`: mark a folder or bucket as the farm's storage, and check it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ltx_client.errors import StorageUnreachable, UsageError
from ltx_client.shared.console.stdio import notice, print_line
from ltx_client.shared.storage.urls import check_storage_url

if TYPE_CHECKING:
    from ltx_client.shared.storage.store import Storage

__all__ = ["command"]


@click.group("storage", epilog="Example: ltx storage init /Volumes/farm")
def command() -> None:
    """Create the folder or bucket for finished videos, and check it.

    Workers and clients use a storage only while it has the file that `ltx storage init` has written: so a share that is
    not mounted, or a URL that is wrong, is noticed before anything is written there.
    """


@command.command("init", epilog="Example: ltx storage init /Volumes/farm")
@click.argument("url", required=False)
def init_command(url: str | None) -> None:
    """Make URL (LTX_STORAGE_URL, by default) a farm's storage, by writing the file .ltx-storage into it.

    Run it once, with the share mounted. Of a folder, only the last part is created if it is missing. Its files are
    kept, and a storage remains the same storage.
    """
    from ltx_client.shared.storage.store import StorageError

    storage = _opened(url)
    is_new = storage.local_folder is not None and not storage.local_folder.exists()
    try:
        storage_id = storage.init()
        storage.check()
    except StorageError as error:
        raise StorageUnreachable(str(error)) from None
    print_line(storage_id, done=f"the storage is created; its id is {storage_id}")
    if is_new:
        notice(f"the folder {storage.local_folder} did not exist, and was created")
    notice(f"{storage.url} is the storage of a farm; set LTX_STORAGE_URL to it on workers and clients")


@command.command("check", epilog="Example: ltx storage check")
@click.argument("url", required=False)
def check_command(url: str | None) -> None:
    """Write a small file to URL (LTX_STORAGE_URL, by default), read it and remove it. Print the storage's id."""
    from ltx_client.shared.storage.store import StorageError

    storage = _opened(url)
    try:
        storage.check()
        print_line(storage.identify())
    except StorageError as error:
        raise StorageUnreachable(str(error)) from None
    notice(f"{storage.url} is there, and can be written")


def _opened(url: str | None) -> Storage:
    from ltx_client.shared.settings import FarmSettings
    from ltx_client.shared.storage.store import Storage, StorageError

    url = FarmSettings().storage_url if url is None else url
    if url is None:
        raise UsageError("no storage is set; name its URL, or set LTX_STORAGE_URL")
    try:
        check_storage_url(url)
    except ValueError as error:
        raise UsageError(f"the storage URL {error}") from None
    try:
        storage = Storage(url)
    except StorageError as error:
        raise UsageError(str(error)) from None
    if storage.local_folder is not None and storage.local_folder.is_file():
        raise UsageError(f"the storage {storage.url} is a file, not a folder")
    return storage
