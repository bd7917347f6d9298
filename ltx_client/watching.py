"""What a farm shows of its jobs: one, many, and what happens to them as it happens."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from ltx_client.broker import broker_errors
from ltx_client.connection import Connection
from ltx_client.errors import BrokerUnreachable, FarmError, JobNotFound
from ltx_client.protocol.jobs import UnreadableJob
from ltx_client.reading import read_views
from ltx_client.views import Follower, JobView, Update

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

        At least one update a second for each job, without an event when nothing happened.
        """
        followers = {job_id: Follower() for job_id in job_ids}
        last_answer = time.monotonic()
        while followers:
            self.check()
            try:
                batches = self._next_events({job_id: follower.seq for job_id, follower in followers.items()})
                views = self._all_of(list(followers))
            except BrokerUnreachable:
                if time.monotonic() - last_answer > PATIENCE:
                    raise
                time.sleep(BLOCK)
                continue
            last_answer = time.monotonic()
            for job_id, view in views.items():
                yield from followers[job_id].advance(batches.get(job_id, []), view)
                if followers[job_id].ended:
                    del followers[job_id]

    def _all_of(self, ids: list[str]) -> dict[str, JobView]:
        """Jobs by their ids. Raises what `view` raises when one of them cannot be had."""
        views = {view.job.id: view for view in self._views(ids)} if len(ids) > 1 else {}
        return {job_id: views.get(job_id) or self.view(job_id) for job_id in ids}

    def log(self, job_id: str) -> Iterator[Update]:
        """The events of a job so far, then once its state."""
        follower = Follower()
        with broker_errors(self._address):
            entries: Any = self._client.xrange(self._names.events(job_id))
        yield from follower.advance(_numbered(entries), self.view(job_id))

    def view(self, job_id: str) -> JobView:
        """One job. Raises JobNotFound, and FarmError for a job of another protocol version."""
        try:
            views = self._views([job_id])
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
        with broker_errors(self._address):
            if self._client.exists(self._names.job(text)):
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

    def _next_events(self, after: dict[str, int]) -> dict[str, list[tuple[int, bytes]]]:
        """The numbered events of each job after the one that was seen last; waits a moment for the first."""
        streams: Any = {self._names.events(job_id): f"{seq}-0" for job_id, seq in after.items()}
        with broker_errors(self._address):
            reply: Any = self._client.xread(streams, count=200, block=round(BLOCK * 1000))
        ids = {self._names.events(job_id): job_id for job_id in after}
        return {ids[key.decode()]: _numbered(entries) for key, entries in reply or []}

    def _views(self, ids: Sequence[str]) -> list[JobView]:
        with broker_errors(self._address):
            return read_views(self._client, self._names, ids)


def _numbered(entries: Any) -> list[tuple[int, bytes]]:
    """A stream's entries as the numbers of events and what stands there."""
    return [(int(entry.split(b"-")[0]), fields.get(b"event", b"")) for entry, fields in entries]
