"""The client's own scripts. Each runs atomically in Redis, and may be sent twice: a lost reply can be asked again."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import redis
from redis.commands.core import Script

from ltx_client.protocol.jobs import NO_LINKS, Job, Links
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import ENDED, RESULT_TTL, Status

__all__ = ["ClientLedger", "Submission"]

_SUBMIT = """
-- KEYS: job, jobs, waiting, and of a batch's job batch_jobs.
-- ARGV: id, spec, ttl in seconds, then what the keys job, state and cancel begin with; links JSON or '', item,
--       '1' if it waits for other jobs.
local function waits(id)
  return redis.call('EXISTS', ARGV[4] .. id) == 1
    and redis.call('HEXISTS', ARGV[4] .. id, 'held') == 0
    and (redis.call('HGET', ARGV[5] .. id, 'status') or 'queued') == 'queued'
    and redis.call('EXISTS', ARGV[6] .. id) == 0
end
local known = redis.call('HGET', KEYS[1], 'spec')
if known then
  return known == ARGV[2] and 'exists' or 'conflict'
end
local now = redis.call('TIME')
local milliseconds = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
-- The lists first: one that is damaged is noticed before there is a record.
if KEYS[4] then redis.call('ZADD', KEYS[4], ARGV[8], ARGV[1]) end
redis.call('ZADD', KEYS[2], milliseconds, ARGV[1])
redis.call('HSET', KEYS[1], 'spec', ARGV[2], 'submitted_at', milliseconds)
if ARGV[7] ~= '' then redis.call('HSET', KEYS[1], 'links', ARGV[7]) end
if ARGV[9] == '1' then return 'waits' end
local oldest = redis.pcall('LINDEX', KEYS[3], 0)
if type(oldest) == 'table' and oldest.err then
  if string.find(oldest.err, 'WRONGTYPE', 1, true) then return 'created' end
  error(oldest.err)
end
while oldest and not waits(oldest) do
  redis.call('LPOP', KEYS[3])
  oldest = redis.call('LINDEX', KEYS[3], 0)
end
redis.call('RPUSH', KEYS[3], ARGV[1])
redis.call('EXPIRE', KEYS[3], ARGV[3])
return oldest and 'later' or 'created'
"""

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


_WISH = """
-- KEYS: job, state, cancel.  ARGV: field, value or '' for none, then the states that are the end.
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 'missing'
end
local status = redis.call('HGET', KEYS[2], 'status') or 'queued'
for i = 3, #ARGV do
  if status == ARGV[i] then return status end
end
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
end
redis.call('PUBLISH', KEYS[3], '0')
return status
"""


class Submission(StrEnum):
    """What became of a submit."""

    CREATED = "created"
    LATER = "later"
    """Created, while an older job of the same person, priority and queue waits: its turn comes after that one's."""
    WAITS = "waits"
    """Created; a message is sent for it when the jobs that it waits for have ended."""
    EXISTS = "exists"
    CONFLICT = "conflict"


class ClientLedger:
    """The writes that a client may make."""

    def __init__(self, client: redis.Redis, names: Names) -> None:
        self._client = client
        self._names = names
        self._submit = client.register_script(_SUBMIT)
        self._cancel = client.register_script(_CANCEL)
        self._wish = client.register_script(_WISH)

    def submit(self, job: Job, links: Links = NO_LINKS) -> Submission:
        """Writes the job's record; that write is the submission.

        The same job again changes nothing and says EXISTS; another job under its id changes nothing and
        says CONFLICT. The time of submission is the broker's. Of a person's jobs of one priority in one queue, at
        most one that waits was CREATED; the others are LATER. Takes as long however many wait.
        """
        keys, args = self._submission(job, links)
        return Submission(_text(self._submit(keys=keys, args=args)))

    def submit_all(self, jobs: Sequence[tuple[Job, Links]]) -> list[Submission]:
        """The same for many jobs, in one round trip; what became of each. After an error, any of them may have been
        written.
        """
        with self._client.pipeline(transaction=False) as pipeline:
            for job, links in jobs:
                keys, args = self._submission(job, links)
                self._submit(keys=keys, args=args, client=pipeline)
            return [Submission(_text(reply)) for reply in pipeline.execute()]

    def _submission(self, job: Job, links: Links) -> tuple[list[str], list[str | int]]:
        names = self._names
        keys = [names.job(job.id), names.jobs(), names.waiting(job.queue, job.priority, job.submitter)]
        if links.batch is not None:
            keys.append(names.batch_jobs(links.batch))
        spec: list[str | int] = [
            job.id,
            job.model_dump_json(),
            RESULT_TTL,
            names.job(""),
            names.state(""),
            names.cancel(""),
        ]
        linked = "" if links == NO_LINKS else links.model_dump_json(exclude_defaults=True)
        return keys, [*spec, linked, links.item or 0, "1" if links.waits else ""]

    def cancel(self, job_id: str) -> Status | None:
        """Asks for the job's end. Returns its state at that moment: ended, and nothing was asked; queued,
        and no worker will ever run it; running, and its worker was woken. None: there is no such job.
        """
        return self._ask(self._cancel, job_id, RESULT_TTL)

    def hold(self, job_id: str) -> Status | None:
        """Asks for a pause: no worker takes the job, and one that renders it gives it back. Returns as `cancel`."""
        return self._ask(self._wish, job_id, "held", "1")

    def unhold(self, job_id: str) -> Status | None:
        """Ends a pause. Returns as `cancel`."""
        return self._ask(self._wish, job_id, "held", "")

    def set_priority(self, job_id: str, priority: int) -> Status | None:
        """Asks for another place in the queue. Returns as `cancel`."""
        return self._ask(self._wish, job_id, "priority", priority)

    def _ask(self, script: Script, job_id: str, *args: str | int) -> Status | None:
        keys = [self._names.job(job_id), self._names.state(job_id), self._names.cancel(job_id)]
        status = _text(script(keys=keys, args=[*args, *sorted(ENDED)]))
        return None if status == "missing" else Status(status)


def _text(reply: object) -> str:
    return reply.decode() if isinstance(reply, bytes) else str(reply)
