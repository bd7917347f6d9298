"""Put each waiting job in its submitter's line, and send the messages that are missing.

When a worker receives a message, whichever it is, the ledger decides whose turn it is
(`ltx_client.protocol.fair_turns`). A queue therefore needs only as many messages as it has jobs.
"""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Sequence, Set
from typing import Any, NamedTuple, Protocol

import redis

from ltx_client.protocol.fair_turns import line_entry, line_keys, turn_of
from ltx_client.protocol.jobs import Job
from ltx_client.protocol.names import Names
from ltx_client.shared.celery.celery_settings import Addressed, queue_keys
from ltx_client.shared.lua.lua_script import RegisteredScript
from ltx_client.shared.unexpected_data import is_wrong_type, tell_once
from ltx_worker.ledger.scripts import ENTER_LINES

__all__ = ["FairTurns", "SendRender", "WaitingJob", "job_of"]

log = logging.getLogger(__name__)

ENTER_ALL_EVERY = 60.0
"""Seconds between two times that all jobs are put into their lines, even those that were put there before."""
BATCH = 1000
"""Jobs of one call: the broker serves nobody else meanwhile."""
MOST_MESSAGES = 5000
"""The most messages that one round sends for one queue."""


class SendRender(Protocol):
    """Sends a message that makes a worker look for a job."""

    def __call__(self, job: Addressed, priority: int) -> None:
        """Put a message for the job into its queue, at this priority."""


class WaitingJob(NamedTuple):
    """A job that waits for its turn, and the priority at which it waits."""

    job: Job
    priority: int


class FairTurns:
    """Remembers between rounds which jobs are in their lines, and how many messages each queue lacked.

    Args:
        client: of the broker.
        names: of the farm's keys.
        send: sends a message for a job.
    """

    def __init__(self, client: redis.Redis, names: Names, send: SendRender) -> None:
        self._client = client
        self._names = names
        self._send = send
        self._enter = RegisteredScript(client, ENTER_LINES)
        self._entered: set[tuple[str, int]] = set()
        self._enter_all_at = 0.0
        self._short: dict[str, int] = {}

    def update(self, waiting: Sequence[WaitingJob], *, free: Set[str] = frozenset()) -> None:
        """Put jobs into their lines, and send the messages that were missing in two rounds in a row.

        One round is not enough: a message that was just delivered is in no queue, and its job is not claimed yet. An
        extra message does no harm.

        Args:
            waiting: all jobs that wait, the oldest first.
            free: the ids of jobs for which nobody has sent a message yet.
        """
        self._enter_lines(waiting)
        by_queue = defaultdict(list)
        for one in waiting:
            by_queue[one.job.queue].append(one)
        counts = self._count_messages(list(by_queue))
        short_before, self._short = self._short, {}
        for queue, jobs in by_queue.items():
            short = len(jobs) - counts[queue]
            if short <= 0:
                continue
            missing = min(short, short_before.get(queue, 0))
            if missing:
                log.warning("queue %s: sent %d messages that were missing for %d jobs", queue, missing, len(jobs))
            wanted = max(missing, sum(one.job.id in free for one in jobs))
            chosen = sorted(jobs, key=lambda one: one.job.id not in free)[: min(short, wanted, MOST_MESSAGES)]
            for job, priority in chosen:
                self._send(job, priority)
            self._short[queue] = short - len(chosen)

    def _enter_lines(self, waiting: Sequence[WaitingJob]) -> None:
        """Put the jobs that are new here into their lines, and now and then all of them."""
        if time.monotonic() >= self._enter_all_at:
            self._entered.clear()
            self._enter_all_at = time.monotonic() + ENTER_ALL_EVERY
        lines = defaultdict(list)
        for job, priority in waiting:
            if (job.id, priority) not in self._entered:
                lines[job.variant, turn_of(job, priority)].append((job, priority))
        for (_, turn), jobs in lines.items():
            line, its_turns = line_keys(self._names, *jobs[0])
            for at in range(0, len(jobs), BATCH):
                entries = [line_entry(job) for job, _ in jobs[at : at + BATCH]]
                self._enter(line=line, turns=its_turns, turn=turn, job_prefix=self._names.job(""), entries=entries)
        self._entered = {(job.id, priority) for job, priority in waiting}

    def _count_messages(self, queues: Sequence[str]) -> dict[str, int]:
        keys = [queue_keys(self._names, queue) for queue in queues]
        with self._client.pipeline(transaction=False) as pipeline:
            for key in (key for of_queue in keys for key in of_queue):
                pipeline.llen(key)
            replies = iter(pipeline.execute(raise_on_error=False))
        return {
            queue: sum(_length(key, next(replies)) for key in of_queue)
            for queue, of_queue in zip(queues, keys, strict=True)
        }


def _length(key: str, reply: Any) -> int:
    """Return a list's length; 0 for a key that is no list, which is logged once."""
    if is_wrong_type(reply):
        tell_once(f"the key {key} is ignored: its value is of the wrong kind")
        return 0
    if isinstance(reply, Exception):
        raise reply
    return int(reply)


def job_of(message: bytes) -> str | None:
    """Return the id of a message's job, or None if it is invalid.

    Args:
        message: as stored in a queue, or, in a list with its route, among the delivered ones.
    """
    try:
        decoded = json.loads(message)
        job_id = (decoded[0] if isinstance(decoded, list) else decoded)["headers"]["id"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return job_id if isinstance(job_id, str) else None
