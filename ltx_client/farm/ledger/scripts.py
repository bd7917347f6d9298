"""The client's own scripts. Each runs atomically in Redis, and may be sent twice: a lost reply can be asked again."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import redis

from ltx_client.protocol.jobs import NO_LINKS, Job, Links, UnreadableJob, parse_job, parse_links, parse_priority
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import ENDED, RESULT_TTL, Status
from ltx_client.protocol.turns import ENTER_LINE, GIVEN_BACK, line_entry, line_keys, not_on_field, turn_of

__all__ = ["ClientLedger", "Submission"]

WANTED_TTL = 3600
"""Seconds from a submission, or from when one is about to come, in which nobody removes what its job is given."""
LEAD = 60_000
"""Milliseconds by which the newest job's time may be ahead of the broker's clock. No two jobs have the same time, so
that whatever is sorted by it has the order of submission; a clock that was set back must not hold all later ones there.
"""

_SUBMIT = (
    ENTER_LINE
    + """
-- KEYS: job, jobs, line, turns, batch_jobs (of a job of no batch, job again), all else that a job's id may have, of
--       which ARGV[1] are keys; then what the job is given.
-- ARGV: how many those are, id, spec, links JSON or '', item or '', turn, entry, '1' if it waits for other jobs, '1' to
--       write nothing; then the fields that keep it from workers.
local known = redis.call('HGET', KEYS[1], 'spec')
if known then return known == ARGV[3] and 'exists' or 'conflict' end
local first_input = 6 + ARGV[1]
if redis.call('EXISTS', unpack(KEYS, 6, first_input - 1)) > 0 then return 'used' end
for i = first_input, #KEYS do
  if redis.pcall('GET', KEYS[i]) ~= 'wanted' then return 'not wanted' end
end
if ARGV[9] == '1' then return 'created' end
for i = first_input, #KEYS do redis.call('SET', KEYS[i], 'wanted', 'EX', WANTED_TTL) end
local now = redis.call('TIME')
local moment = now[1] * 1000 + math.floor(now[2] / 1000)
local newest = tonumber(redis.call('ZRANGE', KEYS[2], 0, 0, 'REV', 'WITHSCORES')[2] or 0)
if newest >= moment and newest < moment + LEAD then moment = newest + 1 end
local milliseconds = string.format('%.0f', moment)
-- The lists first: one that is damaged is noticed before there is a record.
if ARGV[5] ~= '' then redis.call('ZADD', KEYS[5], ARGV[5], ARGV[2]) end
redis.call('ZADD', KEYS[2], milliseconds, ARGV[2])
redis.call('HSET', KEYS[1], 'spec', ARGV[3], 'submitted_at', milliseconds)
if ARGV[4] ~= '' then redis.call('HSET', KEYS[1], 'links', ARGV[4]) end
for i = 10, #ARGV do redis.call('HSET', KEYS[1], ARGV[i], '1') end
if ARGV[8] == '1' then return 'waits' end
enter_line(KEYS[3], KEYS[4], ARGV[6], ARGV[7], milliseconds)
return 'created'
""".replace("WANTED_TTL", str(WANTED_TTL)).replace("LEAD", str(LEAD))
)

_CANCEL = """
-- KEYS: job, state, cancel.  ARGV: ttl in seconds, then the states that are the end.
-- The state is the workers' to write: they end it, or drop it when the job's time ran out.
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 'missing'
end
local status = redis.call('HGET', KEYS[2], 'status') or 'queued'
for i = 2, #ARGV do
  if status == ARGV[i] then return status end
end
redis.call('SET', KEYS[3], '1')
if status == 'queued' then
  redis.call('EXPIRE', KEYS[1], ARGV[1])
  redis.call('EXPIRE', KEYS[3], ARGV[1])
end
redis.call('PUBLISH', KEYS[3], '1')
return status
"""


_ASK = (
    ENTER_LINE
    + """
-- KEYS: job, state, cancel, the line that it is in, the one where it is to be, turns.
-- ARGV: field, value or '' for none, turn, entry, '1' to put it into that line also from none, then the states that are
--       the end.
if redis.call('EXISTS', KEYS[1]) == 0 then return 'missing' end
local status = redis.call('HGET', KEYS[2], 'status') or 'queued'
for i = 6, #ARGV do
  if status == ARGV[i] then return status end
end
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
end
local waited = ARGV[4] ~= '' and redis.pcall('ZREM', KEYS[4], ARGV[4]) == 1
if status == 'queued' and (waited or ARGV[5] == '1') and redis.call('HEXISTS', KEYS[1], 'held') == 0 then
  enter_line(KEYS[5], KEYS[6], ARGV[3], ARGV[4], redis.call('HGET', KEYS[1], 'submitted_at'))
end
redis.call('PUBLISH', KEYS[3], '0')
return status
"""
)


class Submission(StrEnum):
    """What became of a submit."""

    CREATED = "created"
    WAITS = "waits"
    """Created; a message is sent for it when the jobs that it waits for have ended."""
    EXISTS = "exists"
    CONFLICT = "conflict"
    """The id is another job's."""
    USED = "used"
    """A job had this id that was removed; what workers wrote of it is still there."""
    NOT_WANTED = "not wanted"
    """Nobody has said in the last hour that what the job is given is wanted, so that it may have been removed."""


class ClientLedger:
    """The writes that a client may make."""

    def __init__(self, client: redis.Redis, names: Names) -> None:
        self._client = client
        self._names = names
        self._submit = client.register_script(_SUBMIT)
        self._cancel = client.register_script(_CANCEL)
        self._ask_for = client.register_script(_ASK)

    def submit(self, job: Job, links: Links = NO_LINKS) -> Submission:
        """Writes the job's record; that write is the submission.

        The same job again changes nothing and says EXISTS; another job under its id changes nothing and says CONFLICT,
        or USED where that one is gone. The time of submission is the broker's.
        """
        return Submission(_text(self._submit(*self._submission(job, links))))

    def submit_all(self, jobs: Sequence[tuple[Job, Links]], *, dry: bool = False) -> list[Submission]:
        """The same for many jobs, in one round trip; what became of each. After an error, any of them may have been
        written.

        dry: writes nothing; what would become of each, of one that would wait for others CREATED too.
        """
        with self._client.pipeline(transaction=False) as pipeline:
            for job, links in jobs:
                keys, args = self._submission(job, links, dry=dry)
                self._submit(keys=keys, args=args, client=pipeline)
            return [Submission(_text(reply)) for reply in pipeline.execute()]

    def _submission(self, job: Job, links: Links, *, dry: bool = False) -> tuple[list[str], list[str | int]]:
        names, turn = self._names, turn_of(job)
        leftovers = names.besides_job(job.id)
        keys = [names.job(job.id), names.jobs(), *line_keys(names, job)]
        keys += [names.job(job.id) if links.batch is None else names.batch_jobs(links.batch), *leftovers]
        keys += [names.input(sha256) for sha256 in sorted(job.inputs)]
        linked = "" if links == NO_LINKS else links.model_dump_json(exclude_defaults=True)
        item = "" if links.batch is None else str(links.item or 0)
        args: list[str | int] = [len(leftovers), job.id, job.model_dump_json(), linked, item, turn, line_entry(job)]
        args += ["1" if links.waits else "", "1" if dry else "", *map(not_on_field, links.not_on)]
        return keys, args

    def cancel(self, job_id: str) -> Status | None:
        """Asks for the job's end. Returns its state at that moment: ended, and nothing was asked; queued,
        and no worker will ever run it; running, and its worker was woken. None: there is no such job.
        """
        keys = [self._names.job(job_id), self._names.state(job_id), self._names.cancel(job_id)]
        return _status(self._cancel(keys=keys, args=[RESULT_TTL, *sorted(ENDED)]))

    def hold(self, job_id: str) -> Status | None:
        """Asks for a pause: no worker takes the job, and one that renders it gives it back. Returns as `cancel`."""
        return self._ask(job_id, "held", "1")

    def unhold(self, job_id: str) -> Status | None:
        """Ends a pause. Returns as `cancel`."""
        return self._ask(job_id, "held", "")

    def set_priority(self, job_id: str, priority: int) -> Status | None:
        """Asks for another place in the queue. Returns as `cancel`."""
        return self._ask(job_id, "priority", priority)

    def _ask(self, job_id: str, field: str, value: str | int) -> Status | None:
        """Writes a field of the job's record, and has the job wait where it belongs then."""
        names = self._names
        record: Any = self._client.hmget(names.job(job_id), "spec", "links", "priority")
        attempt: Any = self._client.hget(names.state(job_id), "attempt")
        try:
            job = parse_job(record[0] or b"", job_id)
        except UnreadableJob:  # it is in nobody's line
            lines, turn, entry, enters = [names.job(job_id)] * 3, "", "", False
        else:
            asked = parse_priority(record[2])
            priority, given_back = job.priority if asked is None else asked, attempt not in (None, b"0")
            before = GIVEN_BACK if given_back else priority
            after = int(value) if field == "priority" and not given_back else before
            line, turns = line_keys(names, job, after)
            lines, turn, entry = [line_keys(names, job, before)[0], line, turns], turn_of(job, after), line_entry(job)
            enters = field == "held" and not parse_links(record[1]).waits
        keys = [names.job(job_id), names.state(job_id), names.cancel(job_id), *lines]
        args = [field, value, turn, entry, "1" if enters else "", *sorted(ENDED)]
        return _status(self._ask_for(keys=keys, args=args))


def _status(reply: object) -> Status | None:
    status = _text(reply)
    return None if status == "missing" else Status(status)


def _text(reply: object) -> str:
    return reply.decode() if isinstance(reply, bytes) else str(reply)
