"""The job ledger, worker's side: five scripts that decide who renders a job and what became of it.

Each runs atomically in Redis. Every write after the claim carries the attempt's number and token, and is
refused when another attempt is the current one (fencing), so at-least-once delivery still has one result.
Each script may be sent twice: the second sending changes nothing and gives the same answer. No script
decodes or encodes JSON; what is to be stored comes ready-made.

`state:{id}` is a hash: status, attempt, token, seq, snapshot. No hash means queued, attempt 0, seq 0.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from enum import StrEnum

import redis

from ltx_client.protocol import events
from ltx_client.protocol.events import Event, Result
from ltx_client.protocol.jobs import Job
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import RESULT_TTL, Snapshot, Status, apply, sources_of

__all__ = ["Attempt", "Ledger", "Refusal", "StaleAttempt", "Verdict"]

PREVIEW_TTL = 3600
"""Seconds that the newest preview lives after the job's end."""
MAX_EVENTS = 10_000
"""About how many events a job's stream keeps."""

_PRELUDE = """
local function among(value, from, to)
  for i = from, to do
    if ARGV[i] == value then return true end
  end
  return false
end
local function record(state, events, seq, event, snapshot)
  redis.call('HSET', state, 'seq', seq, 'snapshot', snapshot)
  redis.call('XADD', events, 'MAXLEN', '~', MAX_EVENTS, seq .. '-0', 'event', event)
  redis.call('PUBLISH', events, seq .. ' ' .. event)
end
local function expire(seconds, keys)
  for _, key in ipairs(keys) do redis.call('EXPIRE', key, seconds) end
end
local function is_current(state, attempt, token)
  local held = redis.call('HMGET', state, 'attempt', 'token')
  return held[1] == attempt and held[2] == token
end
""".replace("MAX_EVENTS", str(MAX_EVENTS))

_CLAIM = """
-- KEYS: job, state, lease, cancel, events, preview.
-- ARGV: attempt, token, seq, lease in ms, claimed event, its snapshot, cancelled event, its snapshot, ttl,
--       then the states from which a job may be claimed.
if redis.call('EXISTS', KEYS[1]) == 0 then return 'gone' end
local held = redis.call('HMGET', KEYS[2], 'status', 'attempt', 'token', 'seq')
local status, attempt, seq = held[1] or 'queued', tonumber(held[2] or 0), tonumber(held[4] or 0)
if held[3] == ARGV[2] then
  return status == 'cancelled' and 'cancelled' or 'claimed'
end
if not among(status, 10, #ARGV) then return 'ended' end
if redis.call('EXISTS', KEYS[3]) == 1 then return 'leased' end
if tonumber(ARGV[1]) ~= attempt + 1 or tonumber(ARGV[3]) ~= seq + 1 then return 'raced' end
if redis.call('EXISTS', KEYS[4]) == 1 then
  redis.call('HSET', KEYS[2], 'status', 'cancelled', 'attempt', attempt, 'token', ARGV[2])
  record(KEYS[2], KEYS[5], ARGV[3], ARGV[7], ARGV[8])
  expire(ARGV[9], {KEYS[1], KEYS[2], KEYS[4], KEYS[5], KEYS[6]})
  return 'cancelled'
end
redis.call('HSET', KEYS[2], 'status', 'running', 'attempt', ARGV[1], 'token', ARGV[2])
redis.call('SET', KEYS[3], ARGV[2], 'PX', ARGV[4])
redis.call('DEL', KEYS[6])
record(KEYS[2], KEYS[5], ARGV[3], ARGV[5], ARGV[6])
return 'claimed'
"""

_RENEW = """
-- KEYS: state, lease, cancel.  ARGV: attempt, token, lease in ms.
if not is_current(KEYS[1], ARGV[1], ARGV[2]) then return 'stale' end
if redis.call('HGET', KEYS[1], 'status') ~= 'running' then return 'stale' end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return redis.call('EXISTS', KEYS[3]) == 1 and 'cancel' or 'go on'
"""

_EMIT = """
-- KEYS: state, events, cancel, preview.  ARGV: attempt, token, seq, event, snapshot, preview JPEG or ''.
if not is_current(KEYS[1], ARGV[1], ARGV[2]) then return 'stale' end
local held = redis.call('HMGET', KEYS[1], 'status', 'seq')
if held[1] ~= 'running' then return 'stale' end
if tonumber(ARGV[3]) == tonumber(held[2]) + 1 then
  if ARGV[6] ~= '' then redis.call('SET', KEYS[4], ARGV[6]) end
  record(KEYS[1], KEYS[2], ARGV[3], ARGV[4], ARGV[5])
elseif tonumber(ARGV[3]) > tonumber(held[2]) then
  return 'gap'
end
return redis.call('EXISTS', KEYS[3]) == 1 and 'cancel' or 'go on'
"""

_COMMIT = """
-- KEYS: job, state, lease, cancel, events, preview, result.
-- ARGV: attempt, token, seq, status, event, snapshot, ttl, preview ttl, result JSON or '',
--       then the states from which a job may come to this one.
if not is_current(KEYS[2], ARGV[1], ARGV[2]) then return 'stale' end
local held = redis.call('HMGET', KEYS[2], 'status', 'seq')
if held[1] == ARGV[4] then return 'committed' end
if not among(held[1], 10, #ARGV) then return 'stale' end
if ARGV[4] == 'done' and redis.call('EXISTS', KEYS[4]) == 1 then return 'cancel' end
if tonumber(ARGV[3]) ~= tonumber(held[2]) + 1 then return 'gap' end
redis.call('HSET', KEYS[2], 'status', ARGV[4])
if ARGV[9] ~= '' then
  redis.call('HSET', KEYS[7], 'attempt', ARGV[1], 'files', ARGV[9])
end
record(KEYS[2], KEYS[5], ARGV[3], ARGV[5], ARGV[6])
redis.call('DEL', KEYS[3])
expire(ARGV[7], {KEYS[1], KEYS[2], KEYS[4], KEYS[5], KEYS[7]})
expire(ARGV[8], {KEYS[6]})
return 'committed'
"""

_RELEASE = """
-- KEYS: state, lease, events.  ARGV: attempt, token, seq, event, snapshot.
if not is_current(KEYS[1], ARGV[1], ARGV[2]) then return 'stale' end
local held = redis.call('HMGET', KEYS[1], 'status', 'seq')
if held[1] == 'queued' then return 'released' end
if held[1] ~= 'running' then return 'stale' end
if tonumber(ARGV[3]) ~= tonumber(held[2]) + 1 then return 'gap' end
redis.call('HSET', KEYS[1], 'status', 'queued')
redis.call('DEL', KEYS[2])
record(KEYS[1], KEYS[3], ARGV[3], ARGV[4], ARGV[5])
return 'released'
"""


Args = list[str | int | bytes]


class Verdict(StrEnum):
    """What an owner learns from a write: go on, or that somebody asked for the job's end."""

    GO_ON = "go on"
    CANCEL = "cancel"


class Refusal(StrEnum):
    """Why a job was not claimed."""

    GONE = "gone"
    ENDED = "ended"
    LEASED = "leased"
    CANCELLED = "cancelled"


class StaleAttempt(Exception):
    """Another attempt is the current one, or the job ended: this one must stop and write nothing more."""


@dataclass
class Attempt:
    """A claim that was granted. `snapshot` is the job's state as this attempt has written it."""

    job: Job
    number: int
    token: str
    snapshot: Snapshot = field(repr=False)


class Ledger:
    """The writes that a worker may make. `lease` in seconds.

    The methods raise StaleAttempt when the attempt is over, and redis.RedisError when Redis is away.
    """

    def __init__(self, client: redis.Redis, names: Names, lease: float = 60.0) -> None:
        self._client = client
        self._names = names
        self._lease = round(lease * 1000)
        scripts = {"claim": _CLAIM, "renew": _RENEW, "emit": _EMIT, "commit": _COMMIT, "release": _RELEASE}
        self._scripts = {name: client.register_script(_PRELUDE + body) for name, body in scripts.items()}

    def claim(self, job_id: str, worker: str, worker_name: str) -> Attempt | Refusal:
        """Takes the job, if nobody holds it: raises the attempt number, sets a token, takes the lease.

        Of any number of workers that race for a job, one is granted. A job whose cancel was asked is ended
        here. A job whose last owner let its lease lapse may be claimed again.
        """
        token = secrets.token_hex(16)
        while True:
            spec = self._client.hget(self._names.job(job_id), "spec")
            if spec is None:
                return Refusal.GONE
            state = self._read(job_id)
            claimed = events.Claimed(attempt=state.attempt + 1, worker=worker, worker_name=worker_name)
            cancelled = events.Cancelled()
            after = apply(state, claimed)
            args: Args = [after.attempt, token, after.seq, self._lease]
            args += [*_pair(claimed, after), *_pair(cancelled, apply(state, cancelled))]
            args += [RESULT_TTL, *sorted(sources_of(Status.RUNNING))]
            answer = self._run("claim", job_id, "job state lease cancel events preview", args)
            if answer == "claimed":
                return Attempt(Job.model_validate_json(spec), after.attempt, token, after)
            if answer != "raced":
                return Refusal(answer)

    def renew(self, attempt: Attempt) -> Verdict:
        """Keeps the lease, or takes it back if it lapsed while nobody else claimed the job."""
        args: Args = [attempt.number, attempt.token, self._lease]
        return Verdict(self._run("renew", attempt.job.id, "state lease cancel", args))

    def emit(self, attempt: Attempt, event: Event, preview: bytes = b"") -> Verdict:
        """Writes one event: into the job's stream, its channel and its snapshot, under the next number.

        After an error whose outcome is unknown, the same event must be sent again before another.
        """
        after = apply(attempt.snapshot, event)
        args: Args = [attempt.number, attempt.token, after.seq, *_pair(event, after), preview]
        verdict = Verdict(self._run("emit", attempt.job.id, "state events cancel preview", args))
        attempt.snapshot = after
        return verdict

    def commit(self, attempt: Attempt, event: events.Done | events.Failed | events.Cancelled) -> Verdict:
        """Ends the job. CANCEL: a cancel was accepted before, so a result is refused and nothing was written."""
        after = apply(attempt.snapshot, event)
        result: Result | None = after.result
        args: Args = [attempt.number, attempt.token, after.seq, after.status, *_pair(event, after)]
        args += [RESULT_TTL, PREVIEW_TTL, result.model_dump_json() if result else ""]
        args += sorted(sources_of(after.status))
        answer = self._run("commit", attempt.job.id, "job state lease cancel events preview result", args)
        if answer == "cancel":
            return Verdict.CANCEL
        attempt.snapshot = after
        return Verdict.GO_ON

    def release(self, attempt: Attempt, reason: str) -> None:
        """Gives the job back to the queue. The caller sees to it that a message brings it to a worker again."""
        event = events.Released(reason=reason)
        after = apply(attempt.snapshot, event)
        args: Args = [attempt.number, attempt.token, after.seq, *_pair(event, after)]
        self._run("release", attempt.job.id, "state lease events", args)
        attempt.snapshot = after

    def _read(self, job_id: str) -> Snapshot:
        snapshot = self._client.hget(self._names.state(job_id), "snapshot")
        return Snapshot() if snapshot is None else Snapshot.model_validate_json(snapshot)

    def _run(self, script: str, job_id: str, keys: str, args: Args) -> str:
        reply = self._scripts[script](keys=[getattr(self._names, key)(job_id) for key in keys.split()], args=args)
        answer = reply.decode() if isinstance(reply, bytes) else str(reply)
        if answer == "stale":
            raise StaleAttempt(f"{script}: attempt {args[0]!r} is no longer the current one")
        if answer == "gap":
            raise AssertionError(f"{script}: event {args[2]!r} does not follow the last one")
        return answer


def _pair(event: Event, after: Snapshot) -> tuple[str, str]:
    return event.model_dump_json(), after.model_dump_json()
