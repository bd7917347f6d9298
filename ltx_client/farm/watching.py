"""Read jobs for a farm: one, many, and their events as they happen."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import redis
from pydantic import SecretStr

from ltx_client.errors import BrokerUnreachable, FarmError, JobNotFound, UsageError
from ltx_client.farm.broker import broker_errors
from ltx_client.farm.changes.feed import Feed
from ltx_client.farm.jobs.records import read_views
from ltx_client.farm.jobs.views import Follower, JobView
from ltx_client.local.members import FarmFolder
from ltx_client.protocol.jobs import UnreadableJob
from ltx_client.protocol.names import Names
from ltx_client.shared.broker.exchange import Exchange, Item, Sleep, ask
from ltx_client.shared.settings import broker_address
from ltx_client.shared.unexpected_data import ask_or, is_wrong_type

__all__ = ["MIN_ID_TAIL", "Watching"]

MIN_ID_TAIL = 4
BLOCK = 1.0
"""Seconds of one wait for events."""
PATIENCE = 60.0
"""Seconds for which a watcher retries while the broker does not answer."""


class Watching:
    """The operations of a farm that only read, as exchanges: what is sent, and what the answers mean."""

    def __init__(
        self, broker_url: SecretStr, names: Names, storage_url: str | None, embedded: FarmFolder | None
    ) -> None:
        self.storage_url = storage_url
        self.embedded = embedded
        self.broker_url = broker_url
        self._address = broker_address(broker_url)
        self._names = names
        self.closed = False

    def check(self) -> None:
        """See `Farm.check`."""
        if self.closed:
            raise FarmError("this farm was closed; connect to it again")
        if self.embedded is None:
            return
        if not self.embedded.is_kept():
            from ltx_client.local.join import why_stopped

            raise BrokerUnreachable(why_stopped(self.embedded))
        if why := self.embedded.why_refused():
            raise UsageError(f"this machine's worker does not start: {why}; its jobs stay queued until it does")

    def watch(self, job_ids: Sequence[str]) -> Exchange[None]:
        """See `Farm.watch`. The items are the updates."""
        followers = {job_id: Follower() for job_id in job_ids}
        without_log: set[str] = set()
        lost: list[FarmError] = []
        last_answer = time.monotonic()
        while followers:
            self.check()
            try:
                after = {job_id: follower.seq for job_id, follower in followers.items() if job_id not in without_log}
                batches = yield from self._next_events(after, without_log)
                views = (yield from self._views(list(followers))) if len(followers) > 1 else []
                views += yield from self._one_by_one(set(followers) - {view.job.id for view in views}, followers, lost)
            except BrokerUnreachable:
                if time.monotonic() - last_answer > PATIENCE:
                    raise
                yield Sleep(BLOCK)
                continue
            last_answer = time.monotonic()
            for view in views:
                job_id = view.job.id
                for update in followers[job_id].advance(batches.get(job_id, []), view):
                    yield Item(update)
                if followers[job_id].ended:
                    del followers[job_id]
        if lost:
            raise lost[0]

    def _one_by_one(
        self, ids: set[str], followers: dict[str, Follower], lost: list[FarmError]
    ) -> Exchange[list[JobView]]:
        """Return the jobs that reading many at once left out; an unreadable one moves from `followers` to `lost`."""
        views = []
        for job_id in ids:
            try:
                views.append((yield from self.view(job_id)))
            except BrokerUnreachable:
                raise
            except FarmError as error:
                lost.append(error)
                del followers[job_id]
        return views

    def feed(self, *, progress: bool) -> Feed:
        """Return what `Farm.changes` follows."""
        return Feed(self._names, self.check, partial(broker_errors, self._address), progress=progress)

    def log(self, job_id: str) -> Exchange[None]:
        """See `Farm.log`. The items are the updates."""
        follower = Follower()
        with broker_errors(self._address):
            entries = (yield from self._log_of(self._names.events(job_id))) or []
        view = yield from self.view(job_id)
        for update in follower.advance(_numbered(entries), view):
            yield Item(update)

    def view(self, job_id: str) -> Exchange[JobView]:
        """See `Farm.view`."""
        try:
            views = yield from self._views([job_id], strict=True)
        except UnreadableJob as error:
            raise FarmError(f"job {job_id} cannot be read: {error}") from error
        if not views:
            raise JobNotFound(f"there is no job {job_id} on this farm; `ltx jobs` lists the jobs")
        return views[0]

    def jobs(self, limit: int) -> Exchange[list[JobView]]:
        """See `Farm.jobs`."""
        with broker_errors(self._address):
            ids = yield from ask("zrevrange", self._names.jobs(), 0, limit - 1)
        return (yield from self._views([job_id.decode(errors="replace") for job_id in ids]))

    def find(self, text: str) -> Exchange[str]:
        """See `Farm.find`."""
        if not text.strip():
            raise JobNotFound("the job's id is empty; use an id, or its last characters (see ltx jobs)")
        with broker_errors(self._address):
            if text.isascii() and (yield from ask("exists", self._names.job(text))):
                return text
            ids = yield from ask("zrange", self._names.jobs(), 0, -1)
        found = [
            job_id
            for job_id in (raw.decode(errors="replace") for raw in ids)
            if len(text) >= MIN_ID_TAIL and job_id.endswith(text)
        ]
        if len(found) == 1:
            return str(found[0])
        if found:
            raise JobNotFound(f"{len(found)} jobs have an id that ends with {text}; use more of it")
        raise JobNotFound(f"there is no job {text} on this farm; `ltx jobs` lists the jobs")

    def _next_events(
        self, after: dict[str, int], without_log: set[str]
    ) -> Exchange[dict[str, list[tuple[int, bytes]]]]:
        """Return the numbered events of each job after the last one that was seen; wait a moment for the first.

        A job whose log is damaged is added to `without_log`; its state is used instead.
        """
        ids = {self._names.events(job_id): job_id for job_id in after}
        if not ids:
            yield Sleep(BLOCK)
            return {}
        streams = {key: f"{after[job_id]}-0" for key, job_id in ids.items()}
        with broker_errors(self._address):
            try:
                reply = yield from ask("xread", streams, count=200, block=round(BLOCK * 1000))
            except redis.ResponseError as error:
                if not is_wrong_type(error):
                    raise
                for key, job_id in ids.items():
                    if (yield from self._log_of(key)) is None:
                        without_log.add(job_id)
                return {}
        return {ids[key.decode()]: _numbered(entries) for key, entries in reply or []}

    def _log_of(self, key: str) -> Exchange[Any]:
        """Return the entries of a job's log; None, with one warning, if the key has a value of the wrong type."""
        return ask_or(None, key, "xrange")

    def _views(self, ids: Sequence[str], *, strict: bool = False) -> Exchange[list[JobView]]:
        with broker_errors(self._address):
            return (yield from read_views(self._names, ids, strict=strict))


def _numbered(entries: Any) -> list[tuple[int, bytes]]:
    """Return a stream's entries as numbers and data of events."""
    return [(int(entry.split(b"-")[0]), fields.get(b"event", b"")) for entry, fields in entries]
