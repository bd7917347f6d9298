"""Taking away what is old: videos in the farm's storage, what jobs were given, and the records of jobs.

Of a job's keys only those go that a client writes: what workers write of it expires by itself within a week of its end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ltx_client.protocol.file_names import RESULT
from ltx_client.protocol.storage import Entry, Storage, input_name
from ltx_client.views import JobView

__all__ = ["Old", "find_old", "parse_age"]

_INPUT = re.compile(r"[0-9a-f]{64}")
_AGE = re.compile(r"(?P<count>\d{1,6})\s*(?P<unit>[hdw])")
_SECONDS = {"h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600}


@dataclass
class Old:
    """What may go: names in the storage, with their sizes in bytes, and jobs by their ids."""

    files: dict[str, int] = field(default_factory=dict)
    jobs: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())


def parse_age(text: str) -> int:
    """Seconds that `30d`, `12h` or `4w` mean. Raises ValueError, whose sentence says what would be right."""
    match = _AGE.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(f"{text!r} is no age; give hours, days or weeks, as 12h, 30d or 4w")
    return int(match["count"]) * _SECONDS[match["unit"]]


def find_old(views: Iterable[JobView], unreadable: Iterable[str], storage: Storage | None, before: float) -> Old:
    """What ended, or was stored where no job is known of it any more, before that time (seconds since 1970).

    views: all jobs that the farm knows; unreadable: ids of those that this version cannot read, which stay. What a job
    needs that has not ended stays, however old it is. Raises StorageError, also where the storage is away.
    """
    if storage is not None:
        storage.identify()
    old = Old()
    kept, needed = set(unreadable), set[str]()
    for view in views:
        ended_at = view.snapshot.ended_at or (view.submitted_at if view.ended else None)
        if view.ended and ended_at is not None and ended_at < before:
            old.jobs.append(view.job.id)
        else:
            kept.add(view.job.id)
            needed |= {item.source.removeprefix("sha256:") for item in view.job.request.conditioning}
    if storage is not None:
        gone = set(old.jobs)
        old.files = dict(_old_files(storage, kept, gone, needed, before))
    return old


def _old_files(
    storage: Storage, kept: set[str], gone: set[str], needed: set[str], before: float
) -> Iterator[tuple[str, int]]:
    for entry in storage.entries(""):
        match = RESULT.fullmatch(entry.name)
        if match and match["job"] not in kept and (match["job"] in gone or _is_old(entry, before)):
            yield entry.name, entry.size
    for entry in storage.entries("inputs"):
        if _INPUT.fullmatch(entry.name) and entry.name not in needed and _is_old(entry, before):
            yield input_name(entry.name), entry.size


def _is_old(entry: Entry, before: float) -> bool:
    return entry.modified is not None and entry.modified < before
