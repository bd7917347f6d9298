"""The client's own scripts. Each runs atomically in Redis, and may be sent twice: a lost reply can be asked again."""

from __future__ import annotations

from enum import StrEnum

import redis

from ltx_client.protocol.jobs import Job
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import ENDED, RESULT_TTL, Status

__all__ = ["ClientLedger", "Submission"]

_SUBMIT = """
-- KEYS: job, jobs.  ARGV: id, spec.
local known = redis.call('HGET', KEYS[1], 'spec')
if known then
  return known == ARGV[2] and 'exists' or 'conflict'
end
local now = redis.call('TIME')
local milliseconds = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
redis.call('HSET', KEYS[1], 'spec', ARGV[2], 'submitted_at', milliseconds)
redis.call('ZADD', KEYS[2], milliseconds, ARGV[1])
return 'created'
"""

_CANCEL = """
-- KEYS: job, state, cancel.  ARGV: ttl in seconds, then the states that are the end.
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 'missing'
end
local status = redis.call('HGET', KEYS[2], 'status') or 'queued'
for i = 2, #ARGV do
  if status == ARGV[i] then return status end
end
redis.call('SET', KEYS[3], '1')
if status == 'queued' then
  for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ARGV[1]) end
end
redis.call('PUBLISH', KEYS[3], '1')
return status
"""


class Submission(StrEnum):
    """What became of a submit."""

    CREATED = "created"
    EXISTS = "exists"
    CONFLICT = "conflict"


class ClientLedger:
    """The writes that a client may make."""

    def __init__(self, client: redis.Redis, names: Names) -> None:
        self._names = names
        self._submit = client.register_script(_SUBMIT)
        self._cancel = client.register_script(_CANCEL)

    def submit(self, job: Job) -> Submission:
        """Writes the job's record; that write is the submission.

        The same job again changes nothing and says EXISTS; another job under its id changes nothing and
        says CONFLICT. The time of submission is the broker's.
        """
        keys = [self._names.job(job.id), self._names.jobs()]
        return Submission(_text(self._submit(keys=keys, args=[job.id, job.model_dump_json()])))

    def cancel(self, job_id: str) -> Status | None:
        """Asks for the job's end. Returns its state at that moment: ended, and nothing was asked; queued,
        and no worker will ever run it; running, and its worker was woken. None: there is no such job.
        """
        keys = [self._names.job(job_id), self._names.state(job_id), self._names.cancel(job_id)]
        status = _text(self._cancel(keys=keys, args=[RESULT_TTL, *sorted(ENDED)]))
        return None if status == "missing" else Status(status)


def _text(reply: object) -> str:
    return reply.decode() if isinstance(reply, bytes) else str(reply)
