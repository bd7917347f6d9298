"""The client's part in the farm's storage: what jobs are given goes in, what they made comes out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from ltx_client.errors import FarmError, StorageUnreachable, UsageError
from ltx_client.farm.jobs.inputs import MAX_BYTES, Inputs
from ltx_client.farm.jobs.views import JobView
from ltx_client.farm.outputs.names import short_id
from ltx_client.protocol.text import is_printable
from ltx_client.shared.broker.exchange import Exchange, block
from ltx_client.shared.storage.download_links import fetch_link
from ltx_client.shared.storage.store import DamagedSource, Storage, StorageError, input_name
from ltx_models.request import MAX_FRAMES, MAX_SIZE, GenerationRequest

__all__ = ["fetch_video", "is_here", "missing_inputs", "store_inputs"]

CONTAINER = 16 * 10**6
"""Bytes of an MP4 that its frames do not account for."""


def store_inputs(storage_url: str | None, inputs: Inputs) -> None:
    """Puts files into the farm's storage under the name of their content; what is there already is not sent, unless it
    is damaged.

    Raises UsageError without a storage, StorageUnreachable.
    """
    if not inputs:
        return
    if storage_url is None:
        raise UsageError("pictures and clips travel through the farm's storage; set LTX_STORAGE_URL as the workers do")
    try:
        storage = Storage(storage_url)
        storage.identify()
        for sha256, path in inputs.items():
            size = path.stat().st_size
            if not storage.holds(input_name(sha256), sha256, range(size, size + 1)):
                storage.put(path, input_name(sha256), sha256)
    except StorageError as error:
        raise StorageUnreachable(str(error)) from None
    except (DamagedSource, OSError) as error:
        raise UsageError(f"{path} has changed, or cannot be read any more: {error}; submit again") from error


def missing_inputs(storage_url: str | None, inputs: Sequence[str]) -> list[str]:
    """Those of these, each the SHA-256 of its content, that are not in the farm's storage, or damaged there; none where
    no storage is set. Raises StorageUnreachable.
    """
    if storage_url is None or not inputs:
        return []
    try:
        storage = Storage(storage_url)
        sizes = range(max(MAX_BYTES.values()) + 1)
        return [sha256 for sha256 in inputs if not storage.holds(input_name(sha256), sha256, sizes)]
    except StorageError as error:
        raise StorageUnreachable(str(error)) from None


def fetch_video(
    storage_url: str | None, view: JobView, target: Path, link_of: Callable[[str], Exchange[str | None]]
) -> Exchange[None]:
    """Copies a finished job's MP4 to `target`, whole or not at all, its checksum verified.

    link_of: where a job's video can be read by those to whom the storage is out of reach, if anywhere.
    Raises UsageError when the job has no video or `target` cannot be written, StorageUnreachable when the file cannot
    be had.
    """
    job_id, result = view.job.id, view.snapshot.result
    if result is None:
        why = view.snapshot.error or "it can be downloaded when it is done"
        raise UsageError(f"job {job_id} has no video: it is {view.status}; {why}")
    if not is_printable(result.video) or not result.video.startswith(f"{job_id}."):
        raise StorageUnreachable(
            f"the result of job {job_id} is said to be {result.video!r}, which is no file of this job"
        )
    if result.size > (most := _largest_video(view.job.request)):
        raise StorageUnreachable(
            f"the result of job {job_id} is said to have {result.size:,} bytes, and no video of its size and length has"
            f" more than {most:,}; it is not fetched"
        )
    link, why_not = None, ""
    try:
        if storage_url is None:
            if not (link := (yield from link_of(job_id))):
                raise FarmError(
                    f"no storage is set, so the video of job {job_id} cannot be read;"
                    " set LTX_STORAGE_URL as the workers do"
                )
        else:
            try:
                yield from block(lambda: Storage(storage_url).get(result.video, target, result.sha256, result.size))
            except StorageError as error:
                if not (link := (yield from link_of(job_id))):
                    raise StorageError(f"{error}; is LTX_STORAGE_URL the one that the workers use?") from error
                why_not = f"; it was asked for there since the storage could not be read ({error})"
        if link:
            try:
                yield from block(fetch_link, link, result.video, target, result.sha256, result.size)
            except StorageError as error:
                raise StorageError(f"{error}{why_not}") from error
    except StorageError as error:
        raise StorageUnreachable(str(error)) from None
    except OSError as error:
        name = short_id(job_id)
        raise UsageError(
            f"cannot write {target}: {error.strerror or error};"
            f" the video is kept, and ltx download {name} -o FILE fetches it"
        ) from error


def _largest_video(request: GenerationRequest) -> int:
    """Bytes that a video of this request may have, whatever its content: twice its frames as they are, and a container.
    The size that its writer gives bounds a download no better than the writer wishes.
    """
    width, height = request.width or MAX_SIZE, request.height or MAX_SIZE
    return 2 * 3 * width * height * (request.num_frames or MAX_FRAMES) + CONTAINER


def is_here(view: JobView, target: Path) -> bool:
    """Whether `target` is the job's video already."""
    result = view.snapshot.result
    try:
        if result is None or not target.is_file() or target.stat().st_size != result.size:
            return False
        with target.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == result.sha256
    except OSError:  # what cannot be read may be replaced all the same
        return False
