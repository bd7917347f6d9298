"""Run the client's own scripts. Each is atomic in Redis and may be sent twice, since a reply can be lost."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import redis

from ltx_client.protocol.jobs import NO_LINKS, Job, Links, UnreadableJob, parse_job, parse_links, parse_priority
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import ENDED, RESULT_TTL, Status
from ltx_client.protocol.turns import GIVEN_BACK, line_entry, line_keys, not_on_field, turn_of
from ltx_client.shared.lua.lua_script import Argument, RegisteredScript, load_script

__all__ = ["ClientLedger", "Submission"]

WANTED_TTL = 3600
"""Seconds for which the inputs of a job are kept after its submission, or before an announced one."""
LEAD = 60_000
"""Milliseconds by which the newest job's time may be ahead of the broker's clock.

No two jobs have the same time, so that sorting by it gives the order of submission. The bound keeps a clock that was
set back from giving all later jobs times of the old clock.
"""

_HERE = "ltx_client.farm.ledger"
_SUBMIT = load_script(_HERE, "submit")
_CANCEL = load_script(_HERE, "cancel")
_ASK = load_script(_HERE, "ask")


class Submission(StrEnum):
    """The result of a submission."""

    CREATED = "created"
    WAITS = "waits"
    """Created; its message is sent when the jobs that it depends on have ended."""
    EXISTS = "exists"
    CONFLICT = "conflict"
    """Another job has this id."""
    USED = "used"
    """A removed job had this id; what workers wrote about it still exists."""
    NOT_WANTED = "not wanted"
    """Nobody has wanted an input of the job within the last hour, so it may have been removed."""


class ClientLedger:
    """The writes that a client may make. Methods raise redis.RedisError."""

    def __init__(self, client: redis.Redis, names: Names) -> None:
        self._client = client
        self._names = names
        self._submit = RegisteredScript(client, _SUBMIT)
        self._cancel = RegisteredScript(client, _CANCEL)
        self._ask_for = RegisteredScript(client, _ASK)

    def submit(self, job: Job, links: Links = NO_LINKS) -> Submission:
        """Write the job's record; that write is the submission, and its time is the broker's.

        Returns:
            EXISTS, with nothing changed, for the same job; CONFLICT for another job with its id, or USED if that job is
                gone.
        """
        return Submission(_text(self._submit(**self._submission(job, links))))

    def submit_all(self, jobs: Sequence[tuple[Job, Links]], *, dry: bool = False) -> list[Submission]:
        """Submit many jobs in one round trip. After an error, any of them may have been written.

        Args:
            jobs: The jobs and their links.
            dry: Whether to write nothing and return what would happen; CREATED also for a job that depends on others.

        Returns:
            The result for each job.
        """
        with self._client.pipeline(transaction=False) as pipeline:
            for job, links in jobs:
                self._submit(pipeline, **self._submission(job, links, dry=dry))
            return [Submission(_text(reply)) for reply in pipeline.execute()]

    def _submission(self, job: Job, links: Links, *, dry: bool = False) -> dict[str, Argument]:
        names = self._names
        line, turns = line_keys(names, job)
        leftovers = names.besides_job(job.id)
        return {
            "job": names.job(job.id),
            "jobs": names.jobs(),
            "line": line,
            "turns": turns,
            "batch_jobs": names.job(job.id) if links.batch is None else names.batch_jobs(links.batch),
            "others": [*leftovers, *(names.input(sha256) for sha256 in sorted(job.inputs))],
            "leftover_count": len(leftovers),
            "id": job.id,
            "spec": job.model_dump_json(),
            "links": "" if links == NO_LINKS else links.model_dump_json(exclude_defaults=True),
            "item": "" if links.batch is None else str(links.item or 0),
            "turn": turn_of(job),
            "entry": line_entry(job),
            "waits": "1" if links.waits else "",
            "dry": "1" if dry else "",
            "wanted_ttl": WANTED_TTL,
            "lead": LEAD,
            "not_on": [not_on_field(worker) for worker in links.not_on],
        }

    def cancel(self, job_id: str) -> Status | None:
        """Ask for the job's end.

        Returns:
            The state at that moment. Ended: nothing was asked. Queued: no worker will ever run it. Running: its worker
                was woken. None: the job does not exist.
        """
        return _status(self._cancel(**self._keys(job_id), ttl=RESULT_TTL, ended=sorted(ENDED)))

    def hold(self, job_id: str) -> Status | None:
        """Pause the job: no worker takes it, and one that renders it requeues it. Returns as `cancel`."""
        return self._ask(job_id, "held", "1")

    def unhold(self, job_id: str) -> Status | None:
        """Unpause the job. Returns as `cancel`."""
        return self._ask(job_id, "held", "")

    def set_priority(self, job_id: str, priority: int) -> Status | None:
        """Change the job's priority. Returns as `cancel`."""
        return self._ask(job_id, "priority", priority)

    def _ask(self, job_id: str, field: str, value: str | int) -> Status | None:
        """Write a field of the job's record, and move the job to the line that it then belongs to."""
        names = self._names
        record: Any = self._client.hmget(names.job(job_id), "spec", "links", "priority")
        attempt: Any = self._client.hget(names.state(job_id), "attempt")
        try:
            job = parse_job(record[0] or b"", job_id)
        except UnreadableJob:  # it is in no line
            before = after = turns = names.job(job_id)
            turn, entry, enters = "", "", False
        else:
            asked = parse_priority(record[2])
            priority, given_back = job.priority if asked is None else asked, attempt not in (None, b"0")
            old = GIVEN_BACK if given_back else priority
            new = int(value) if field == "priority" and not given_back else old
            before, (after, turns) = line_keys(names, job, old)[0], line_keys(names, job, new)
            turn, entry = turn_of(job, new), line_entry(job)
            enters = field == "held" and not parse_links(record[1]).waits
        reply = self._ask_for(
            **self._keys(job_id),
            line_before=before,
            line_after=after,
            turns=turns,
            field=field,
            value=value,
            turn=turn,
            entry=entry,
            enters="1" if enters else "",
            ended=sorted(ENDED),
        )
        return _status(reply)

    def _keys(self, job_id: str) -> dict[str, str]:
        names = self._names
        return {"job": names.job(job_id), "state": names.state(job_id), "cancel": names.cancel(job_id)}


def _status(reply: object) -> Status | None:
    status = _text(reply)
    return None if status == "missing" else Status(status)


def _text(reply: object) -> str:
    return reply.decode() if isinstance(reply, bytes) else str(reply)
