"""Whose job comes next: within a priority, the people who wait take turns, however many jobs each has.

A queue holds at most one message of a person and priority; further ones wait in its later queue until that one was
taken. Sees to it too that a message leads to each waiting job.
"""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Set
from typing import Any, NamedTuple, Protocol

import redis

from ltx_client.protocol.damage import is_wrong_type, tell_once
from ltx_client.protocol.jobs import Job
from ltx_client.protocol.names import Names, later_queue
from ltx_client.protocol.transport import queue_keys

__all__ = ["SendRender", "Turns", "job_of"]

log = logging.getLogger(__name__)

SHORT = 5000
"""Messages of a queue that is read at every look."""
READ_ALL_EVERY = 60.0
"""Seconds between two looks at all of a longer one."""
PAGE = 1000
OVERLAP = 100


class SendRender(Protocol):
    """Has a worker look at a job."""

    def __call__(self, job: Job, priority: int, *, later: bool = False) -> None:
        """Puts a message for the job into its queue, or its later queue, at this priority."""


class _Held(NamedTuple):
    """A message that lies in a queue: in which list, and its bytes."""

    key: str
    message: bytes


class Turns:
    """Remembers from one look to the next which jobs no message led to."""

    def __init__(self, client: redis.Redis, names: Names, send: SendRender) -> None:
        self._client = client
        self._names = names
        self._send = send
        self._without_message: set[str] = set()
        self._job_of: dict[bytes, str | None] = {}
        self._read_all_at: dict[str, float] = {}

    def give(self, waiting: list[Job], *, moved: Set[str] = frozenset(), free: Set[str] = frozenset()) -> None:
        """Brings everybody's oldest waiting job to the front, where none of theirs is; sends a message for each job
        that two looks in a row found in no queue.

        Once is not enough: a message that was just delivered is in no queue, and its job not yet claimed. One
        message too many does no harm. `waiting`: all jobs that wait, the oldest first.  moved: those whose message may
        lie at a priority that was changed since.  free: those for which nobody has sent a message yet.
        """
        self._without_message |= free
        by_queue = defaultdict(list)
        for job in waiting:
            by_queue[job.queue].append(job)
        missing: set[str] = set()
        parsed: dict[bytes, str | None] = {}
        for queue, jobs in by_queue.items():
            front, later = self._held(queue, parsed), self._held(later_queue(queue), parsed)
            front.read_all()
            if self._must_read_all(queue, jobs, front, later):
                later.read_all()
            lines = defaultdict(list)
            for job in jobs:
                lines[job.submitter, job.priority].append(job)
            for line in lines.values():
                self._move([job for job in line if job.id in moved], front, later)
                missing |= self._give_in_line(line, front, later)
        self._without_message = missing
        self._job_of = parsed

    def _must_read_all(self, queue: str, jobs: list[Job], front: _Queue, later: _Queue) -> bool:
        """Whether to look for jobs that no message leads to. In a long queue, which takes a while to read, only where
        there are more jobs than messages, or one was missing at the last look, or once in a while.
        """
        if len(later) <= SHORT:
            return True
        short_of = len(front) + len(later) < len(jobs) or not self._without_message.isdisjoint(job.id for job in jobs)
        if not short_of and time.monotonic() < self._read_all_at.get(queue, 0.0):
            return False
        self._read_all_at[queue] = time.monotonic() + READ_ALL_EVERY
        return True

    def _give_in_line(self, line: list[Job], front: _Queue, later: _Queue) -> set[str]:
        """One person's jobs of one priority and queue. Returns those that no message leads to."""
        missing = {job.id for job in line if job.id not in front and job.id not in later} if later.is_read else set()
        first = line[0]
        if not any(job.id in front for job in line) and first.id in later:
            self._send(first, first.priority)
            held = later[first.id]
            self._client.lrem(held.key, -1, held.message)  # type: ignore[arg-type]
        for job in line:
            if job.id in missing & self._without_message:
                log.warning("job %s: no message led to it; sending one", job.id)
                self._send(job, job.priority, later=job is not first)
                missing.discard(job.id)
        return missing

    def _move(self, jobs: list[Job], front: _Queue, later: _Queue) -> None:
        """Sends those messages anew that lie at another priority than their job's, and takes the old ones away; they
        are found where they belong at the next look.
        """
        for job in jobs:
            is_first = job.id in front
            lies_in, queue = (front, job.queue) if is_first else (later, later_queue(job.queue))
            if job.id not in lies_in:
                continue
            held = lies_in[job.id]
            if held.key != queue_keys(self._names, queue)[job.priority]:
                self._send(job, job.priority, later=not is_first)
                self._client.lrem(held.key, -1, held.message)  # type: ignore[arg-type]
                lies_in.forget(job.id)

    def _held(self, queue: str, parsed: dict[bytes, str | None]) -> _Queue:
        return _Queue(self._client, queue_keys(self._names, queue), self._job_of, parsed)


class _Queue:
    """The messages in a queue, by the jobs that they are for; read from the end that workers take from, as far as they
    are asked for.

    known: of messages that were seen before, their jobs; `parsed` gets those of the ones that are read.
    """

    def __init__(
        self, client: redis.Redis, keys: list[str], known: dict[bytes, str | None], parsed: dict[bytes, str | None]
    ) -> None:
        self._client = client
        self._known = known
        self._parsed = parsed
        self._held: dict[str, _Held] = {}
        with client.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.llen(key)
            lengths = [
                _length(key, reply) for key, reply in zip(keys, pipeline.execute(raise_on_error=False), strict=True)
            ]
        self._length: int = sum(lengths)
        self._unread = [(key, length) for key, length in zip(keys, lengths, strict=True) if length]

    def __len__(self) -> int:
        return self._length

    def __contains__(self, job_id: str) -> bool:
        while job_id not in self._held and self._unread:
            self._read_page()
        return job_id in self._held

    def __getitem__(self, job_id: str) -> _Held:
        if job_id not in self:
            raise KeyError(job_id)
        return self._held[job_id]

    def forget(self, job_id: str) -> None:
        """After its message was taken out of the queue."""
        del self._held[job_id]

    @property
    def is_read(self) -> bool:
        """Whether all of it has been read."""
        return not self._unread

    def read_all(self) -> None:
        """Reads what is left."""
        while self._unread:
            self._read_page()

    def _read_page(self) -> None:
        """Some more of the first list that is not read. Messages that are added meanwhile move all others on, so the
        pages overlap.
        """
        key, length = self._unread.pop(0)
        page: Any = self._client.lrange(key, max(0, length - PAGE), length - 1)
        if length > PAGE:
            self._unread.insert(0, (key, length - PAGE + OVERLAP))
        for message in page:
            job_id = self._known[message] if message in self._known else job_of(message)
            self._parsed[message] = job_id
            if job_id is not None:
                self._held[job_id] = _Held(key, message)


def _length(key: str, reply: Any) -> int:
    """Return a list's length; 0 of a key that holds something else, which is said once."""
    if is_wrong_type(reply):
        tell_once(f"the key {key} is set aside: it holds another kind of value than it should")
        return 0
    if isinstance(reply, Exception):
        raise reply
    return int(reply)


def job_of(message: bytes) -> str | None:
    """The job that a message is for, as it lies in a queue or, in a list with its route, among the delivered ones."""
    try:
        decoded = json.loads(message)
        job_id = (decoded[0] if isinstance(decoded, list) else decoded)["headers"]["id"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return job_id if isinstance(job_id, str) else None
