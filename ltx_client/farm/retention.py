"""Remove what is old: videos in the farm's storage, inputs of jobs, and the records of jobs.

Only the keys that a client writes are removed: those that workers write expire by themselves within a week of a job's
end. A script on the broker decides again about each thing at its removal (`ltx_client.farm.ledger.removal`). Ages of
jobs are measured by the broker's clock, those of files of unknown jobs by the storage's own.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ltx_client.farm.batches import Batches
from ltx_client.farm.jobs.views import JobView
from ltx_client.farm.ledger.removal import Permission, RemovalExchanges
from ltx_client.protocol.file_names import RESULT
from ltx_client.shared.broker.exchange import Exchange, Item, block
from ltx_client.shared.storage.store import Entry, Storage, StorageError, input_name

__all__ = ["Old", "Removed", "find_old", "parse_age", "remove"]

_INPUT = re.compile(r"[0-9a-f]{64}")
_AGE = re.compile(r"(?P<count>\d{1,6})\s*(?P<unit>[hdw])")
_SECONDS = {"h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600}


@dataclass
class Old:
    """What may be removed.

    Attributes:
        jobs: Times of submission by job id.
        videos: Names in the storage, each with its job and its size in bytes.
        inputs: Sizes in bytes by the SHA-256 of the content.
        read_at: When the reading of jobs began, by the broker's clock.
        inputs_kept_for: Jobs that this version cannot read, if inputs are kept since one of them may need them.
    """

    read_at: float
    jobs: dict[str, float] = field(default_factory=dict)
    videos: dict[str, tuple[str, int]] = field(default_factory=dict)
    inputs: dict[str, int] = field(default_factory=dict)
    inputs_kept_for: list[str] = field(default_factory=list)

    @property
    def files(self) -> list[str]:
        """Return the names of all files."""
        return [*self.videos, *map(input_name, self.inputs)]

    @property
    def size(self) -> int:
        """Return the bytes of all files."""
        return sum(size for _, size in self.videos.values()) + sum(self.inputs.values())


@dataclass
class Removed:
    """What was removed.

    Attributes:
        kept: Names of files and jobs that were found, but are or may be used again.
    """

    files: int = 0
    size: int = 0
    jobs: int = 0
    kept: list[str] = field(default_factory=list)


def parse_age(text: str) -> int:
    """Return the seconds of an age such as `30d`, `12h` or `4w`.

    Raises:
        ValueError: The text is not an age; the message says what to use.
    """
    match = _AGE.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(f"{text!r} is invalid: it is not an age; use hours, days or weeks, such as 12h, 30d or 4w")
    return int(match["count"]) * _SECONDS[match["unit"]]


def find_old(
    views: Iterable[JobView], unreadable: Iterable[str], storage: Storage | None, older_than: float, now: float
) -> Old:
    """Return what is old: ended jobs, their files, and files of unknown jobs.

    What a job needs that has not ended is kept, however old it is.

    Args:
        views: All jobs of the farm.
        unreadable: Ids of the jobs that this version cannot read, which are kept, and with them all inputs: nobody
            here knows which of them they need.
        storage: The farm's storage; None to look at records only.
        older_than: Seconds since the end of a job, or since a file was stored.
        now: The time before the jobs were read, by the broker's clock.

    Raises:
        StorageError: The storage cannot be read.
    """
    if storage is not None:
        storage.identify()
    old = Old(read_at=now)
    unreadable = set(unreadable)
    kept, needed = set(unreadable), set[str]()
    for view in views:
        ended_at = view.snapshot.ended_at or (view.submitted_at if view.ended else None)
        if view.ended and ended_at is not None and ended_at < now - older_than:
            old.jobs[view.job.id] = view.submitted_at
        else:
            kept.add(view.job.id)
            needed |= view.job.inputs
    if storage is not None:
        _find_files(old, storage, kept, needed, older_than)
    if unreadable and old.inputs:
        old.inputs_kept_for = sorted(unreadable)
        old.inputs.clear()
    return old


def _find_files(old: Old, storage: Storage, kept: set[str], needed: set[str], older_than: float) -> None:
    results = [(entry, match["job"]) for entry in storage.entries("") if (match := RESULT.fullmatch(entry.name))]
    results = [(entry, job_id) for entry, job_id in results if job_id not in kept]
    inputs = [entry for entry in storage.entries("inputs") if _INPUT.fullmatch(entry.name)]
    inputs = [entry for entry in inputs if entry.name not in needed]
    ages_matter = inputs or any(job_id not in old.jobs for _, job_id in results)
    before = _storage_now(storage) - older_than if ages_matter else 0.0
    for entry, job_id in results:
        if job_id in old.jobs or _is_old(entry, before):
            old.videos[entry.name] = job_id, entry.size
    old.inputs = {entry.name: entry.size for entry in inputs if _is_old(entry, before)}


def _is_old(entry: Entry, before: float) -> bool:
    return entry.modified is not None and entry.modified < before


def _storage_now(storage: Storage) -> float:
    """Return the storage's time, from a file that is written now; 0 if its files have no times. Raise StorageError."""
    folder, name = "inputs", f"clock-{secrets.token_hex(8)}"
    with tempfile.TemporaryDirectory() as local:
        probe = Path(local) / name
        probe.write_bytes(b"what time is it")
        try:
            storage.put(probe, f"{folder}/{name}")
            found = [entry.modified for entry in storage.entries(folder) if entry.name == name]
        finally:
            with contextlib.suppress(StorageError):
                storage.remove(f"{folder}/{name}")
    return found[0] if found and found[0] is not None else 0.0


def remove(old: Old, storage: Storage | None, removals: RemovalExchanges, batches: Batches) -> Exchange[None]:
    """Remove what may still be removed: records first, so that nobody begins to download the files that follow.

    Each item is what was removed so far.

    Raises:
        StorageError: A file cannot be removed; the rest is left for the next time.
        redis.RedisError: The broker did not answer.
    """
    removed = Removed()
    gone = set()
    for job_id, submitted_at in old.jobs.items():
        if (yield from removals.forget(job_id, submitted_at)):
            gone.add(job_id)
            removed.jobs += 1
        else:
            removed.kept.append(f"job {job_id}")
        yield Item(removed)
    yield from batches.drop_empty()
    if storage is None:
        return
    for name, (job_id, size) in old.videos.items():
        if job_id in old.jobs.keys() - gone or (yield from removals.is_known(job_id)):
            removed.kept.append(name)
        else:
            yield from block(storage.remove, name)
            removed.files, removed.size = removed.files + 1, removed.size + size
        yield Item(removed)
    for sha256, size in old.inputs.items():
        if (yield from _remove_input(sha256, old.read_at, storage, removals)):
            removed.files, removed.size = removed.files + 1, removed.size + size
        else:
            removed.kept.append(input_name(sha256))
        yield Item(removed)


def _remove_input(sha256: str, read_at: float, storage: Storage, removals: RemovalExchanges) -> Exchange[bool]:
    token = f"removing {secrets.token_hex(8)}"
    if (yield from removals.may_remove_input(sha256, token, read_at)) is not Permission.YES:
        return False
    try:
        yield from block(storage.remove, input_name(sha256))
    finally:
        yield from removals.input_removed(sha256, token)
    return True
