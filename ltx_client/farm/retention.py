"""Taking away what is old: videos in the farm's storage, what jobs were given, and the records of jobs.

Of a job's keys only those go that a client writes: what workers write of it expires by itself within a week of its end.
What was found is decided again for each thing at its removal, by a script on the broker
(`ltx_client.farm.ledger.removal`).
Ages of jobs are by the broker's clock, those of files that no job is known of by the storage's own.
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
    """What may go. jobs: when each was submitted, by their ids.  videos: names in the storage, each with its job and
    its size in bytes; inputs: sizes by the SHA-256 of the content.  read_at: when it was begun to read which jobs there
    are, by the broker's clock.
    """

    read_at: float
    jobs: dict[str, float] = field(default_factory=dict)
    videos: dict[str, tuple[str, int]] = field(default_factory=dict)
    inputs: dict[str, int] = field(default_factory=dict)

    @property
    def files(self) -> list[str]:
        """The names of all files."""
        return [*self.videos, *map(input_name, self.inputs)]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(size for _, size in self.videos.values()) + sum(self.inputs.values())


@dataclass
class Removed:
    """What went. kept: names of files and jobs that were found, and are used again, or may be."""

    files: int = 0
    size: int = 0
    jobs: int = 0
    kept: list[str] = field(default_factory=list)


def parse_age(text: str) -> int:
    """Seconds that `30d`, `12h` or `4w` mean. Raises ValueError, whose sentence says what would be right."""
    match = _AGE.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(f"{text!r} is no age; give hours, days or weeks, as 12h, 30d or 4w")
    return int(match["count"]) * _SECONDS[match["unit"]]


def find_old(
    views: Iterable[JobView], unreadable: Iterable[str], storage: Storage | None, older_than: float, now: float
) -> Old:
    """What ended, or was stored where no job is known of it any more, so many seconds ago.

    views: all jobs that the farm knows; unreadable: ids of those that this version cannot read, which stay. What a job
    needs that has not ended stays, however old it is.  now: before the jobs were read, by the broker's clock.
    Raises StorageError, also where the storage is away.
    """
    if storage is not None:
        storage.identify()
    old = Old(read_at=now)
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
    """What its clock shows, as a file says that is written now; 0 where its files say no times. Raises StorageError."""
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
    """Removes what still may go: the records first, so that nobody begins to download what goes next. Yields what went
    so far after each thing, as an item.

    Raises StorageError, after which the rest is for the next time, and redis.RedisError.
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
