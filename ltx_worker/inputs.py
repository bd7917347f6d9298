"""Fetches what a job was given: pictures and clips, from the farm's storage to a folder of the render's own."""

from __future__ import annotations

import dataclasses
import re
import threading
from pathlib import Path

from ltx_client.protocol.storage import Storage, StorageError, input_name
from ltx_models.errors import InvalidRequest
from ltx_models.request import GenerationRequest
from ltx_worker.patience import patiently

__all__ = ["fetch_inputs"]

ADDRESS = re.compile(r"sha256:([0-9a-f]{64})")


def fetch_inputs(
    request: GenerationRequest, storage: Storage, folder: Path, *, retry_for: float, leaving: threading.Event
) -> GenerationRequest:
    """The request with local files in place of content addresses.

    Tries for `retry_for` seconds. Raises StorageError, and InvalidRequest for a source that is not a content
    address: a job may not name files of the worker's.
    """
    retrying = patiently((StorageError,), leaving, retry_for)
    items = []
    for number, item in enumerate(request.conditioning, 1):
        match = ADDRESS.fullmatch(item.source)
        if match is None:
            raise InvalidRequest(f"the {item.kind} of the job is {item.source!r}, which is no content address")
        path = folder / f"{item.kind} {number}"
        retrying(storage.get, input_name(match[1]), path, match[1])
        items.append(dataclasses.replace(item, source=str(path)))
    return dataclasses.replace(request, conditioning=tuple(items))
