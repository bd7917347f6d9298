"""Move files between the client and the farm's storage: inputs of jobs in, videos and posters out."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from ltx_client.errors import FarmError, StorageUnreachable, UsageError
from ltx_client.farm.jobs.inputs import MAX_BYTES, Inputs
from ltx_client.farm.jobs.views import JobView
from ltx_client.farm.outputs.names import short_id
from ltx_client.protocol.events import Result
from ltx_client.protocol.file_names import POSTER, VIDEO, ResultFile
from ltx_client.protocol.jobs import Job
from ltx_client.protocol.text import is_printable
from ltx_client.shared.broker.exchange import Exchange, block
from ltx_client.shared.storage.download_links import fetch_link
from ltx_client.shared.storage.store import DamagedSource, Storage, StorageError, input_name
from ltx_models.files.formats import HEAD_BYTES, JPEG, format_of
from ltx_models.memory import limits_of

__all__ = ["fetch_poster", "fetch_video", "is_here", "missing_inputs", "store_inputs"]

CONTAINER = 16 * 10**6
"""Bytes of an MP4 besides its frames."""


def store_inputs(storage_url: str | None, inputs: Inputs) -> None:
    """Upload files to the farm's storage under the SHA-256 of their content, unless intact copies are there.

    Raises:
        UsageError: No storage is set, or a file has changed.
        StorageUnreachable: A file cannot be stored.
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
        raise UsageError(f"{path} has changed, or can no longer be read: {error}; submit again") from error


def missing_inputs(storage_url: str | None, inputs: Sequence[str]) -> list[str]:
    """Return those of these inputs that are missing from the farm's storage, or damaged there.

    Args:
        storage_url: The storage; None if none is set, and then nothing is missing.
        inputs: The SHA-256 of each input's content, in hex.

    Raises:
        StorageUnreachable: The storage cannot be read.
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
    """Copy a finished job's MP4 to `target`, whole or not at all, and verify its checksum.

    Args:
        storage_url: The storage; None if none is set.
        view: The job.
        target: The file to write.
        link_of: Return the download link of a job's video, for clients without access to the storage; None if it has
            none.

    Raises:
        UsageError: The job has no video, or `target` cannot be written.
        StorageUnreachable: The file cannot be read, or is not the one that was stored.
    """
    job_id, result = view.job.id, view.snapshot.result
    if result is None:
        why = view.snapshot.error or "download it when it is done"
        raise UsageError(f"job {job_id} has no video: it is {view.status}; {why}")
    if result.size > (most := _largest_video(view.job)):
        raise StorageUnreachable(
            f"the record of job {job_id} is invalid: its result has {result.size:,} bytes, but a video of its size and"
            f" length has at most {most:,}; it is not downloaded"
        )
    try:
        yield from _fetch(storage_url, job_id, result, VIDEO, target, result.size, link_of)
    except OSError as error:
        name = short_id(job_id)
        raise UsageError(
            f"cannot write {target}: {error.strerror or error};"
            f" the video is kept, and ltx download {name} -o FILE fetches it"
        ) from error


def fetch_poster(
    storage_url: str | None, view: JobView, link_of: Callable[[str], Exchange[str | None]]
) -> Exchange[bytes | None]:
    """Return a finished job's poster, a JPEG, and verify its checksum; None if the job has none.

    Args:
        storage_url: The storage; None if none is set.
        view: The job.
        link_of: Return the download link of a job's poster; None if it has none.

    Raises:
        UsageError: The temporary folder is full, or cannot be written.
        StorageUnreachable: The file cannot be read, or is not the one that was stored.
    """
    result = view.snapshot.result
    if result is None or not result.poster:
        return None
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / POSTER.local
            limit = _largest_video(view.job, frames=1)
            yield from _fetch(storage_url, view.job.id, result, POSTER, path, limit, link_of)
            jpeg = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"cannot write the poster of job {view.job.id} to the temporary folder: {error.strerror or error};"
            " make room there, or set TMPDIR to another folder"
        ) from error
    if format_of(jpeg[:HEAD_BYTES]) != JPEG:
        raise StorageUnreachable(f"the poster of job {view.job.id} is not a JPEG")
    return jpeg


def _fetch(
    storage_url: str | None,
    job_id: str,
    result: Result,
    kind: ResultFile,
    target: Path,
    limit: int,
    link_of: Callable[[str], Exchange[str | None]],
) -> Exchange[None]:
    """Copy a file of a result to `target`, from the storage or by its link. Raise StorageUnreachable, and OSError.

    Args:
        storage_url: The storage; None if none is set.
        job_id: The job.
        result: Its result.
        kind: Which of the files.
        target: The file to write.
        limit: Bytes that it may have.
        link_of: Return the download link of the job's file.
    """
    name, sha256 = getattr(result, kind.field), getattr(result, kind.sha256)
    if not is_printable(name) or not name.startswith(f"{job_id}."):
        raise StorageUnreachable(f"the record of job {job_id} is invalid: {name!r} is not a file of this job")
    link, why_not = None, ""
    try:
        if storage_url is None:
            if not (link := (yield from link_of(job_id))):
                raise FarmError(
                    f"no storage is set, so the {kind.field} of job {job_id} cannot be read;"
                    " set LTX_STORAGE_URL as the workers do"
                )
        else:
            try:
                yield from block(lambda: Storage(storage_url).get(name, target, sha256, limit))
            except StorageError as error:
                if not (link := (yield from link_of(job_id))):
                    raise StorageError(f"{error}; is LTX_STORAGE_URL the one that the workers use?") from error
                why_not = f"; it was asked for there since the storage could not be read ({error})"
        if link:
            try:
                yield from block(fetch_link, link, name, target, sha256, limit)
            except StorageError as error:
                raise StorageError(f"{error}{why_not}") from error
    except StorageError as error:
        raise StorageUnreachable(str(error)) from None


def _largest_video(job: Job, frames: int | None = None) -> int:
    """Return how many bytes a video of this job may have at most: twice its raw frames, and a container.

    The size in the job's record cannot bound a download, since whoever wrote the record chose it.

    Args:
        job: The job.
        frames: The number of frames; None for the job's.
    """
    request, limits = job.request, limits_of(job.variant)
    width, height = request.width or limits.max_size, request.height or limits.max_size
    return 2 * 3 * width * height * (frames or request.num_frames or limits.max_frames) + CONTAINER


def is_here(view: JobView, target: Path) -> bool:
    """Return whether `target` is the job's video already."""
    result = view.snapshot.result
    try:
        if result is None or not target.is_file() or target.stat().st_size != result.size:
            return False
        with target.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == result.sha256
    except OSError:  # an unreadable file may be replaced too
        return False
