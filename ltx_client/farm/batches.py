"""Store and read batches: many jobs under one id, watched, cancelled, retried and downloaded together."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from ltx_client.errors import JobNotFound
from ltx_client.farm.jobs.inputs import Inputs
from ltx_client.farm.jobs.records import read_views
from ltx_client.farm.jobs.views import JobView
from ltx_client.protocol.changes import messages
from ltx_client.protocol.events import LATEST
from ltx_client.protocol.jobs import Job, Relations
from ltx_client.protocol.names import Names
from ltx_client.shared.broker.exchange import Exchange, run_script
from ltx_client.shared.lua.lua_script import Argument, load_script
from ltx_client.shared.unexpected_data import ask_or

__all__ = ["Batch", "Batches", "PreparedBatch", "derived_id"]

_FAMILY = uuid.UUID("0192f0c2-6d1f-7c1e-8f3a-5b6f6a0c9d11")


JUST_NOTED = 3600
"""Seconds after a batch was written, during which its jobs may not have been submitted yet."""

_HERE = "ltx_client.farm.ledger"
_NOTE = load_script(_HERE, "note_batch")
_DROP = load_script(_HERE, "drop_batch")


@dataclass
class PreparedBatch:
    """A batch that is ready to be sent.

    Attributes:
        name: The file's name, for people.
        jobs: Its jobs, in order.
        inputs: The local files that they need.
        lines: For each line of the file, or each object in it, its line number and its first job.
    """

    id: str
    name: str
    jobs: list[tuple[Job, Relations]]
    inputs: Inputs = field(default_factory=dict)
    lines: list[tuple[int, Job]] = field(default_factory=list)

    def relate(self, relations: Relations) -> None:
        """Add these relations to all jobs of the batch."""
        self.jobs = [
            (
                job,
                own.model_copy(
                    update={
                        name: getattr(own, name) + getattr(relations, name)
                        for name in ("after_jobs", "after_batches", "not_on")
                    }
                ),
            )
            for job, own in self.jobs
        ]


@dataclass(frozen=True)
class Batch:
    """A batch as it is now.

    Attributes:
        views: For each of its videos, the job that stands for it now: the newest retry.
    """

    id: str
    name: str
    submitter: str
    submitted_at: float
    views: list[JobView]

    @property
    def ended(self) -> bool:
        """Return whether all of its jobs have ended."""
        return all(view.ended for view in self.views)


def derived_id(*parts: object) -> str:
    """Return an id that is always the same for the same parts, so that sending again is safe."""
    return str(uuid.uuid5(_FAMILY, "/".join(map(str, parts))))


class Batches:
    """The batches of a farm. Methods raise redis.RedisError."""

    def __init__(self, names: Names) -> None:
        self._names = names

    def note(self, batch: PreparedBatch) -> Exchange[None]:
        """Write the batch's record, before its jobs. Writing it again changes nothing."""
        submitter = batch.jobs[0][0].submitter
        submitted = messages.BatchSubmitted(batch=batch.id, name=batch.name, submitter=submitter).model_dump_json()
        yield from run_script(_NOTE, **self._about(batch.id), name=batch.name, submitter=submitter, submitted=submitted)

    def find(self, text: str, least: int) -> Exchange[str]:
        """Return the id of the batch whose id is, or ends with, `text`.

        Args:
            text: The id, or its last characters.
            least: How many characters the end of an id must have.

        Raises:
            JobNotFound: No batch has such an id, or several have.
        """
        ids = yield from self._ids()
        found = [one for one in ids if one == text]
        found = found or [one for one in ids if len(text) >= least and one.endswith(text)]
        if len(found) == 1:
            return found[0]
        if found:
            raise JobNotFound(f"{len(found)} batches have an id that ends with {text}; use more of it")
        raise JobNotFound(f"there is no batch {text} on this farm; `ltx batches` lists the batches")

    def get(self, batch_id: str) -> Exchange[Batch]:
        """Return the batch as it is now. One whose keys are damaged has no jobs."""
        batch, _ = yield from self._get(batch_id)
        return batch

    def newest(self, limit: int) -> Exchange[list[Batch]]:
        """Return the batches that have jobs, the newest first, `limit` of them at most."""
        found: list[Batch] = []
        for batch_id in (yield from self._ids()):
            if len(found) >= limit:
                break
            batch, _ = yield from self._get(batch_id)
            found += [batch] if batch.views else []
        return found

    def drop_empty(self) -> Exchange[None]:
        """Remove the records of batches whose jobs are all gone, except those whose keys are damaged."""
        for batch_id in (yield from self._ids()):
            batch, is_whole = yield from self._get(batch_id)
            if is_whole and not batch.views:
                removed = messages.BatchRemoved.model_construct(batch=batch_id).model_dump_json()
                yield from run_script(_DROP, **self._about(batch_id), removed=removed)

    def _get(self, batch_id: str) -> Exchange[tuple[Batch, bool]]:
        """Return the batch, and whether all of its own keys are intact."""
        key, jobs_key = self._names.batch(batch_id), self._names.batch_jobs(batch_id)
        about = yield from ask_or(None, key, "hgetall")
        stored = yield from ask_or(None, jobs_key, "zrange", 0, -1)
        is_whole, about = about is not None and stored is not None, about or {}
        newest: dict[int, JobView] = {}
        ids = [job_id.decode(errors="replace") for job_id in stored or ()]
        views = yield from read_views(self._names, ids)
        for view in sorted(views, key=lambda view: view.submitted_at):
            newest[view.relations.item or 0] = view
        batch = Batch(
            id=batch_id,
            name=about.get(b"name", b"").decode(errors="replace"),
            submitter=about.get(b"submitter", b"").decode(errors="replace"),
            submitted_at=_moment(about.get(b"submitted_at", b"")),
            views=[newest[item] for item in sorted(newest)],
        )
        return batch, is_whole

    def _about(self, batch_id: str) -> dict[str, Argument]:
        """Return the keys and arguments that both scripts take."""
        names = self._names
        return {
            "batch": names.batch(batch_id),
            "batch_jobs": names.batch_jobs(batch_id),
            "batches": names.batches(),
            "id": batch_id,
            "job_prefix": names.job(""),
            "just_noted": JUST_NOTED,
            "changes": names.changes(),
        }

    def _ids(self) -> Exchange[Sequence[str]]:
        ids = yield from ask_or([], self._names.batches(), "zrevrange", 0, -1)
        return [batch_id.decode(errors="replace") for batch_id in ids]


def _moment(text: bytes) -> float:
    """Return a time in seconds since 1970; 0 if the text is damaged."""
    try:
        moment = float(text)
    except ValueError:
        return 0.0
    return moment if 0 <= moment < LATEST else 0.0
