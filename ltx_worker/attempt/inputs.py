"""Fetches what a job was given: pictures and clips, from the farm's storage to a folder of the render's own."""

from __future__ import annotations

import dataclasses
import re
import threading
from pathlib import Path

from ltx_client.shared.storage.store import DamagedFile, Storage, StorageError, input_name
from ltx_models.errors import FaultKind, InvalidRequest, MachineFault
from ltx_models.request import GenerationRequest
from ltx_worker.threads.retrying import patiently

__all__ = ["fetch_inputs"]

LARGEST = 10**9
"""Bytes that an input may have, as clients check them."""
ADDRESS = re.compile(r"sha256:([0-9a-f]{64})")


def fetch_inputs(
    request: GenerationRequest, storage: Storage, folder: Path, *, retry_for: float, leaving: threading.Event
) -> GenerationRequest:
    """Return the request with local files in place of content addresses.

    Try for `retry_for` seconds. Raise StorageError for a file that is not there; MachineFault where the storage is
    what cannot be used, or has another file there as this machine reads it; OSError where the folder cannot be used;
    and InvalidRequest for a source that is not a content address: a job may not name files of the worker's.
    """
    retrying = patiently((StorageError,), leaving, retry_for)
    items = []
    for number, item in enumerate(request.conditioning, 1):
        match = ADDRESS.fullmatch(item.source)
        if match is None:
            raise InvalidRequest(f"the {item.kind} of the job is {item.source!r}, which is no content address")
        path = folder / f"{item.kind} {number}"
        name = input_name(match[1])
        try:
            retrying(storage.get, name, path, match[1], LARGEST)
        except StorageError as error:
            raise _whose(error, storage, name) from error
        items.append(dataclasses.replace(item, source=str(path)))
    return dataclasses.replace(request, conditioning=tuple(items))


def _whose(error: StorageError, storage: Storage, name: str) -> StorageError | MachineFault:
    """Return the error, or what it says of the storage as this machine sees it, where that is to blame."""
    try:
        storage.check()
        if isinstance(error, DamagedFile):
            return MachineFault(f"{error}; to replace it, submit the job again with its file", FaultKind.INPUT)
        is_there = storage.exists(name)
    except StorageError as why:
        return MachineFault(str(why), FaultKind.STORAGE)
    if is_there and error.__cause__ is not None:  # it was not read to its end
        return MachineFault(str(error), FaultKind.STORAGE)
    return error
