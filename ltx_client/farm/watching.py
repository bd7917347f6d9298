"""What a farm shows of its jobs: one, many, and what happens to them as it happens."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import redis

from ltx_client.errors import BrokerUnreachable, FarmError, JobNotFound
from ltx_client.farm.broker import broker_errors
from ltx_client.farm.connection import Connection
from ltx_client.farm.jobs.records import read_views
from ltx_client.farm.jobs.views import Follower, JobView, Update
from ltx_client.protocol.jobs import UnreadableJob
from ltx_client.shared.unexpected_data import is_wrong_type, read_or

__all__ = ["MIN_ID_TAIL", "Watching"]

MIN_ID_TAIL = 4
BLOCK = 1.0
"""Seconds that one wait for events takes."""
PATIENCE = 60.0
"""Seconds that a watcher goes on trying when the broker is away."""


class Watching(Connection):
    """The part of a `Farm` that only looks."""

    def watch(self, *job_ids: str) -> Iterator[Update]:
        """Every event of these jobs from the first on: each job's in order, none twice, whenever one joins;
        then the live ones, until all have ended.

        At least one update a second for each job, without an event when nothing happened. When one of several cannot
        be read, or is gone, the others are followed to their end, and its error is raised then.
        """
        followers = {job_id: Follower() for job_id in job_ids}
        without_log: set[str] = set()
        lost: list[FarmError] = []
        last_answer = time.monotonic()
        while followers:
            self.check()
            try:
                after = {job_id: follower.seq for job_id, follower in followers.items() if job_id not in without_log}
                batches = self._next_events(after, without_log)
                views = self._views(list(followers)) if len(followers) > 1 else []
                views += self._one_by_one(set(followers) - {view.job.id for view in views}, followers, lost)
            except BrokerUnreachable:
                if time.monotonic() - last_answer > PATIENCE:
                    raise
                time.sleep(BLOCK)
                continue
            last_answer = time.monotonic()
            for view in views:
                job_id = view.job.id
                yield from followers[job_id].advance(batches.get(job_id, []), view)
                if followers[job_id].ended:
                    del followers[job_id]
        if lost:
            raise lost[0]

    def _one_by_one(self, ids: set[str], followers: dict[str, Follower], lost: list[FarmError]) -> list[JobView]:
        """Return the jobs that many at once left out. One that cannot be had goes from `followers` to `lost`."""
        views = []
        for job_id in ids:
            try:
                views.append(self.view(job_id))
            except BrokerUnreachable:
                raise
            except FarmError as error:
                lost.append(error)
                del followers[job_id]
        return views

    def log(self, job_id: str) -> Iterator[Update]:
        """The events of a job so far, then once its state."""
        follower = Follower()
        with broker_errors(self._address):
            entries: Any = self._log_of(self._names.events(job_id)) or []
        yield from follower.advance(_numbered(entries), self.view(job_id))

    def view(self, job_id: str) -> JobView:
        """One job. Raises JobNotFound, and FarmError for a job of another protocol version."""
        try:
            views = self._views([job_id], strict=True)
        except UnreadableJob as error:
            raise FarmError(f"job {job_id} cannot be read: {error}") from error
        if not views:
            raise JobNotFound(f"there is no job {job_id} on this farm; `ltx jobs` lists those that there are")
        return views[0]

    def jobs(self, limit: int = 50) -> list[JobView]:
        """The newest jobs first."""
        with broker_errors(self._address):
            ids: Any = self._client.zrevrange(self._names.jobs(), 0, limit - 1)
        return self._views([job_id.decode(errors="replace") for job_id in ids])

    def find(self, text: str) -> str:
        """The id of the job whose id is, or ends with, `text` (4 characters at least). Raises JobNotFound."""
        if not text.strip():
            raise JobNotFound("the job's id is empty; give one, or its last characters (see ltx jobs)")
        with broker_errors(self._address):
            if text.isascii() and self._client.exists(self._names.job(text)):
                return text
            ids: Any = self._client.zrange(self._names.jobs(), 0, -1)
        found = [
            job_id
            for job_id in (raw.decode(errors="replace") for raw in ids)
            if len(text) >= MIN_ID_TAIL and job_id.endswith(text)
        ]
        if len(found) == 1:
            return str(found[0])
        if found:
            raise JobNotFound(f"{len(found)} jobs have an id that ends with {text}; give more of it")
        raise JobNotFound(f"there is no job {text} on this farm; `ltx jobs` lists those that there are")

    def _next_events(self, after: dict[str, int], without_log: set[str]) -> dict[str, list[tuple[int, bytes]]]:
        """The numbered events of each job after the one that was seen last; waits a moment for the first. A job whose
        log is damaged is added to `without_log`: its state says how it stands.
        """
        ids = {self._names.events(job_id): job_id for job_id in after}
        if not ids:
            time.sleep(BLOCK)
            return {}
        streams: Any = {key: f"{after[job_id]}-0" for key, job_id in ids.items()}
        with broker_errors(self._address):
            try:
                reply: Any = self._client.xread(streams, count=200, block=round(BLOCK * 1000))
            except redis.ResponseError as error:
                if not is_wrong_type(error):
                    raise
                without_log |= {job_id for key, job_id in ids.items() if self._log_of(key) is None}
                return {}
        return {ids[key.decode()]: _numbered(entries) for key, entries in reply or []}

    def _log_of(self, key: str) -> Any:
        """Return the entries of a job's log; None, which is said once, where the key holds something else."""
        return read_or(None, key, lambda: self._client.xrange(key))

    def _views(self, ids: Sequence[str], *, strict: bool = False) -> list[JobView]:
        with broker_errors(self._address):
            return read_views(self._client, self._names, ids, strict=strict)


def _numbered(entries: Any) -> list[tuple[int, bytes]]:
    """A stream's entries as the numbers of events and what stands there."""
    return [(int(entry.split(b"-")[0]), fields.get(b"event", b"")) for entry, fields in entries]
