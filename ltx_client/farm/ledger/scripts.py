"""Run the client's own scripts. Each is atomic in Redis and may be sent twice, since a reply can be lost."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import redis

from ltx_client.protocol.changes import messages
from ltx_client.protocol.fair_turns import GIVEN_BACK, line_entry, line_keys, not_on_field, turn_of
from ltx_client.protocol.jobs import (
    NO_RELATIONS,
    Job,
    Relations,
    UnreadableJob,
    parse_job,
    parse_priority,
    parse_relations,
)
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import ENDED, RESULT_TTL, Status
from ltx_client.shared.broker.exchange import Command, Exchange, ScriptCall, ask_all, run, run_script
from ltx_client.shared.lua.lua_script import Argument, load_script

__all__ = ["ClientLedger", "LedgerExchanges", "Submission"]

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


class LedgerExchanges:
    """The writes that a client may make. They raise redis.RedisError."""

    def __init__(self, names: Names) -> None:
        self._names = names

    def submit_all(self, jobs: Sequence[tuple[Job, Relations]], *, dry: bool = False) -> Exchange[list[Submission]]:
        """Write the jobs' records in one round trip; these writes are the submission, and its time is the broker's.

        After an error, any of them may have been written.

        Args:
            jobs: The jobs and their relations.
            dry: Whether to write nothing and return what would happen; CREATED also for a job that depends on others.

        Returns:
            For each job: EXISTS, with nothing changed, for the same job; CONFLICT for another job with its id, or USED
                if that job is gone.
        """
        answers = yield from ask_all([self._submission(job, relations, dry=dry) for job, relations in jobs])
        return [Submission(_text(answer)) for answer in answers]

    def _submission(self, job: Job, relations: Relations, *, dry: bool = False) -> ScriptCall:
        names = self._names
        line, turns = line_keys(names, job)
        leftovers = names.besides_job(job.id)
        named: dict[str, Argument] = {
            "job": names.job(job.id),
            "jobs": names.jobs(),
            "line": line,
            "turns": turns,
            "batch_jobs": names.job(job.id) if relations.batch is None else names.batch_jobs(relations.batch),
            "others": [*leftovers, *(names.input(sha256) for sha256 in sorted(job.inputs))],
            "leftover_count": len(leftovers),
            "id": job.id,
            "spec": job.model_dump_json(),
            "links": "" if relations == NO_RELATIONS else relations.model_dump_json(exclude_defaults=True),
            "item": "" if relations.batch is None else str(relations.item or 0),
            "turn": turn_of(job),
            "entry": line_entry(job),
            "waits": "1" if relations.waits else "",
            "dry": "1" if dry else "",
            "wanted_ttl": WANTED_TTL,
            "lead": LEAD,
            "changes": names.changes(),
            "submitted": messages.JobSubmitted(
                job=job.id, variant=job.variant, priority=job.priority, submitter=job.submitter, batch=relations.batch
            ).model_dump_json(),
            "not_on": [not_on_field(worker) for worker in relations.not_on],
        }
        return ScriptCall(_SUBMIT, named)

    def cancel(self, job_id: str) -> Exchange[Status | None]:
        """Ask for the job's end.

        Returns:
            The state at that moment. Ended: nothing was asked. Queued: no worker will ever run it. Running: its worker
                was woken. None: the job does not exist.
        """
        asked = messages.JobCancelAsked.model_construct(job=job_id)
        reply = yield from run_script(
            _CANCEL, **self._keys(job_id), ttl=RESULT_TTL, **self._told(asked), ended=sorted(ENDED)
        )
        return _status(reply)

    def pause(self, job_id: str) -> Exchange[Status | None]:
        """Pause the job: no worker takes it, and one that renders it requeues it. Returns as `cancel`."""
        return self._ask(job_id, "held", "1", messages.JobPaused.model_construct(job=job_id))

    def unpause(self, job_id: str) -> Exchange[Status | None]:
        """Unpause the job. Returns as `cancel`."""
        return self._ask(job_id, "held", "", messages.JobUnpaused.model_construct(job=job_id))

    def set_priority(self, job_id: str, priority: int) -> Exchange[Status | None]:
        """Change the job's priority. Returns as `cancel`."""
        asked = messages.JobPriority.model_construct(job=job_id, priority=priority)
        return self._ask(job_id, "priority", priority, asked)

    def _ask(self, job_id: str, field: str, value: str | int, change: messages.Change) -> Exchange[Status | None]:
        """Write a field of the job's record, and move the job to the line that it then belongs to."""
        names = self._names
        record, attempt = yield from ask_all(
            [
                Command("hmget", [names.job(job_id), "spec", "links", "priority"]),
                Command("hget", [names.state(job_id), "attempt"]),
            ]
        )
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
            enters = field == "held" and not parse_relations(record[1]).waits
        reply = yield from run_script(
            _ASK,
            **self._keys(job_id),
            line_before=before,
            line_after=after,
            turns=turns,
            field=field,
            value=value,
            turn=turn,
            entry=entry,
            enters="1" if enters else "",
            **self._told(change),
            ended=sorted(ENDED),
        )
        return _status(reply)

    def _told(self, change: messages.Change) -> dict[str, str]:
        """Return the channel and the message of a change that somebody asks for."""
        return {"changes": self._names.changes(), "asked": change.model_dump_json()}

    def _keys(self, job_id: str) -> dict[str, str]:
        names = self._names
        return {"job": names.job(job_id), "state": names.state(job_id), "cancel": names.cancel(job_id)}


class ClientLedger:
    """Carry out the exchanges of `LedgerExchanges` over a connection, at once. Methods raise redis.RedisError."""

    def __init__(self, client: redis.Redis, names: Names) -> None:
        self._client = client
        self._exchanges = LedgerExchanges(names)

    def submit(self, job: Job, relations: Relations = NO_RELATIONS) -> Submission:
        """One job; see `LedgerExchanges.submit_all`."""
        (outcome,) = self.submit_all([(job, relations)])
        return outcome

    def submit_all(self, jobs: Sequence[tuple[Job, Relations]], *, dry: bool = False) -> list[Submission]:
        """See `LedgerExchanges.submit_all`."""
        return run(self._client, self._exchanges.submit_all(jobs, dry=dry))

    def cancel(self, job_id: str) -> Status | None:
        """See `LedgerExchanges.cancel`."""
        return run(self._client, self._exchanges.cancel(job_id))

    def pause(self, job_id: str) -> Status | None:
        """See `LedgerExchanges.pause`."""
        return run(self._client, self._exchanges.pause(job_id))

    def unpause(self, job_id: str) -> Status | None:
        """See `LedgerExchanges.unpause`."""
        return run(self._client, self._exchanges.unpause(job_id))

    def set_priority(self, job_id: str, priority: int) -> Status | None:
        """See `LedgerExchanges.set_priority`."""
        return run(self._client, self._exchanges.set_priority(job_id, priority))


def _status(reply: object) -> Status | None:
    status = _text(reply)
    return None if status == "missing" else Status(status)


def _text(reply: object) -> str:
    return reply.decode() if isinstance(reply, bytes) else str(reply)
