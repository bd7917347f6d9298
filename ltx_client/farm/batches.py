"""Batches: many jobs under one id, to be watched, cancelled, tried again and downloaded together."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from ltx_client.errors import JobNotFound
from ltx_client.farm.jobs.inputs import Inputs
from ltx_client.farm.jobs.records import read_views
from ltx_client.farm.jobs.views import JobView
from ltx_client.protocol.events import LATEST
from ltx_client.protocol.jobs import Job, Links
from ltx_client.protocol.names import Names
from ltx_client.shared.broker.exchange import Exchange, run_script
from ltx_client.shared.lua.lua_script import Argument, load_script
from ltx_client.shared.unexpected_data import ask_or

__all__ = ["Batch", "Batches", "PreparedBatch", "derived_id"]

_FAMILY = uuid.UUID("0192f0c2-6d1f-7c1e-8f3a-5b6f6a0c9d11")


JUST_NOTED = 3600
"""Seconds from when a batch is noted, in which its jobs may still be on their way."""

_HERE = "ltx_client.farm.ledger"
_NOTE = load_script(_HERE, "note_batch")
_DROP = load_script(_HERE, "drop_batch")


@dataclass
class PreparedBatch:
    """A batch that can be sent: its jobs, in order, and the local files that they need.

    name: of the file, for people.  lines: the first job of each line of the file, or of each of the
    objects in it, with the line's number.
    """

    id: str
    name: str
    jobs: list[tuple[Job, Links]]
    inputs: Inputs = field(default_factory=dict)
    lines: list[tuple[int, Job]] = field(default_factory=list)

    def link(self, links: Links) -> None:
        """Has all its jobs wait for these others, and keeps them from these workers, too."""
        self.jobs = [
            (
                job,
                own.model_copy(
                    update={
                        name: getattr(own, name) + getattr(links, name)
                        for name in ("after_jobs", "after_batches", "not_on")
                    }
                ),
            )
            for job, own in self.jobs
        ]


@dataclass(frozen=True)
class Batch:
    """A batch as it stands. views: of each of its videos the job that stands for it now: the newest retry."""

    id: str
    name: str
    submitter: str
    submitted_at: float
    views: list[JobView]

    @property
    def ended(self) -> bool:
        """Whether nothing of it can change any more."""
        return all(view.ended for view in self.views)


def derived_id(*parts: object) -> str:
    """The same id for the same parts, whenever it is asked for: so that sending again is safe."""
    return str(uuid.uuid5(_FAMILY, "/".join(map(str, parts))))


class Batches:
    """The batches of a farm. Methods raise redis.RedisError."""

    def __init__(self, names: Names) -> None:
        self._names = names

    def note(self, batch: PreparedBatch) -> Exchange[None]:
        """Writes what the batch is, before its jobs. The same again changes nothing."""
        yield from run_script(_NOTE, **self._about(batch.id), name=batch.name, submitter=batch.jobs[0][0].submitter)

    def find(self, text: str, least: int) -> Exchange[str]:
        """The id of the batch whose id is, or ends with, `text` (`least` characters at least). Raises JobNotFound."""
        ids = yield from self._ids()
        found = [one for one in ids if one == text]
        found = found or [one for one in ids if len(text) >= least and one.endswith(text)]
        if len(found) == 1:
            return found[0]
        if found:
            raise JobNotFound(f"{len(found)} batches have an id that ends with {text}; give more of it")
        raise JobNotFound(f"there is no batch {text} on this farm; `ltx batches` lists those that there are")

    def get(self, batch_id: str) -> Exchange[Batch]:
        """The batch as it stands. One whose keys are damaged has no jobs."""
        batch, _ = yield from self._get(batch_id)
        return batch

    def newest(self, limit: int) -> Exchange[list[Batch]]:
        """The batches that have jobs, the newest first, so many at most."""
        found: list[Batch] = []
        for batch_id in (yield from self._ids()):
            if len(found) >= limit:
                break
            batch, _ = yield from self._get(batch_id)
            found += [batch] if batch.views else []
        return found

    def drop_empty(self) -> Exchange[None]:
        """Remove what is known of batches whose jobs are all gone, but for those whose keys are damaged."""
        for batch_id in (yield from self._ids()):
            batch, is_whole = yield from self._get(batch_id)
            if is_whole and not batch.views:
                yield from run_script(_DROP, **self._about(batch_id))

    def _get(self, batch_id: str) -> Exchange[tuple[Batch, bool]]:
        """Return the batch, and whether none of its own keys is damaged."""
        key, jobs_key = self._names.batch(batch_id), self._names.batch_jobs(batch_id)
        about = yield from ask_or(None, key, "hgetall")
        stored = yield from ask_or(None, jobs_key, "zrange", 0, -1)
        is_whole, about = about is not None and stored is not None, about or {}
        newest: dict[int, JobView] = {}
        ids = [job_id.decode(errors="replace") for job_id in stored or ()]
        views = yield from read_views(self._names, ids)
        for view in sorted(views, key=lambda view: view.submitted_at):
            newest[view.links.item or 0] = view
        batch = Batch(
            id=batch_id,
            name=about.get(b"name", b"").decode(errors="replace"),
            submitter=about.get(b"submitter", b"").decode(errors="replace"),
            submitted_at=_moment(about.get(b"submitted_at", b"")),
            views=[newest[item] for item in sorted(newest)],
        )
        return batch, is_whole

    def _about(self, batch_id: str) -> dict[str, Argument]:
        """Return what both scripts are given."""
        names = self._names
        return {
            "batch": names.batch(batch_id),
            "batch_jobs": names.batch_jobs(batch_id),
            "batches": names.batches(),
            "id": batch_id,
            "job_prefix": names.job(""),
            "just_noted": JUST_NOTED,
        }

    def _ids(self) -> Exchange[Sequence[str]]:
        ids = yield from ask_or([], self._names.batches(), "zrevrange", 0, -1)
        return [batch_id.decode(errors="replace") for batch_id in ids]


def _moment(text: bytes) -> float:
    """Seconds since 1970; 0 where that cannot be read."""
    try:
        moment = float(text)
    except ValueError:
        return 0.0
    return moment if 0 <= moment < LATEST else 0.0
