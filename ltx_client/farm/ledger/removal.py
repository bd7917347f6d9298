"""The scripts by which those who use a thing of the farm, and `ltx gc`, which removes it, keep from a race."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import redis

from ltx_client.farm.ledger.scripts import WANTED_TTL
from ltx_client.protocol.names import Names
from ltx_client.protocol.state import ENDED

__all__ = ["REMOVAL_TTL", "Permission", "RemovalLedger"]

REMOVAL_TTL = 120
"""Seconds after which a removal that nobody has said to be over is taken to be so, since whoever removed was killed."""
READING_TTL = 3600
"""Seconds that a download keeps its job, where it was killed and could not say that it ended."""

_WANT = """
-- KEYS: inputs.  ARGV: seconds.
for _, key in ipairs(KEYS) do
  local said = redis.pcall('GET', key)  -- of another type: it says nothing, and is written anew
  if type(said) == 'string' and said ~= 'wanted' then return 0 end
end
for _, key in ipairs(KEYS) do redis.call('SET', key, 'wanted', 'EX', ARGV[1]) end
return 1
"""

_MAY_REMOVE = """
-- KEYS: input.  ARGV: when it was read which jobs need what, seconds for which that holds, token, seconds.
if redis.call('TIME')[1] - ARGV[1] >= tonumber(ARGV[2]) then return 'too late' end
return redis.call('SET', KEYS[1], ARGV[3], 'NX', 'EX', ARGV[4]) and 'yes' or 'no'
"""

_REMOVED = """
-- KEYS: input.  ARGV: token.
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
"""

_FORGET = """
-- KEYS: job, state, cancel, readers.  ARGV: time of submission as it was read, then the states that are the end.
-- Its id stays on the list of jobs, where a worker finds that its record is gone, and removes what workers wrote of it.
local submitted_at = redis.call('HGET', KEYS[1], 'submitted_at')
if not submitted_at then return 'yes' end
if submitted_at ~= ARGV[1] or redis.call('EXISTS', KEYS[4]) == 1 then return 'no' end
local status = redis.call('HGET', KEYS[2], 'status') or 'queued'
local ended = status == 'queued' and redis.call('EXISTS', KEYS[3]) == 1
for i = 2, #ARGV do ended = ended or status == ARGV[i] end
if not ended then return 'no' end
redis.call('DEL', KEYS[1], KEYS[3])
return 'yes'
"""

_READ = """
-- KEYS: job, readers.  ARGV: token, seconds.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if redis.call('TYPE', KEYS[2]).ok ~= 'hash' then redis.call('DEL', KEYS[2]) end
redis.call('HSET', KEYS[2], ARGV[1], '1')
redis.call('EXPIRE', KEYS[2], ARGV[2])
return 1
"""


class Permission(StrEnum):
    """Whether something may be removed now."""

    YES = "yes"
    NO = "no"
    """It is wanted, or used, or somebody else removes it."""
    TOO_LATE = "too late"
    """It was read too long ago which jobs need what."""


class RemovalLedger:
    """Methods raise redis.RedisError."""

    def __init__(self, client: redis.Redis, names: Names) -> None:
        self._client = client
        self._names = names
        self._want = client.register_script(_WANT)
        self._may_remove = client.register_script(_MAY_REMOVE)
        self._removed = client.register_script(_REMOVED)
        self._forget = client.register_script(_FORGET)
        self._read = client.register_script(_READ)

    def want(self, inputs: Sequence[str]) -> bool:
        """Keeps what has this content for an hour, whether or not it is there yet. False, and nothing was written,
        while one of them is being removed.
        """
        return bool(self._want(keys=[self._names.input(sha256) for sha256 in inputs], args=[WANTED_TTL]))

    def may_remove_input(self, sha256: str, token: str, read_at: float) -> Permission:
        """Whether it may be removed, which nobody may want until `input_removed`, or for REMOVAL_TTL seconds.

        token: of this removal.  read_at: when it was begun to read which jobs need what, by the broker's clock.
        """
        args: list[Any] = [int(read_at), WANTED_TTL, token, REMOVAL_TTL]
        return Permission(self._may_remove(keys=[self._names.input(sha256)], args=args).decode())

    def input_removed(self, sha256: str, token: str) -> None:
        """Says that the removal of this token is over."""
        self._removed(keys=[self._names.input(sha256)], args=[token])

    def forget(self, job_id: str, submitted_at: float) -> bool:
        """Removes the client's keys of a job that has ended, if it is still the one that was submitted then, and nobody
        downloads its video. Returns whether it is gone.
        """
        names = self._names
        keys = [names.job(job_id), names.state(job_id), names.cancel(job_id), names.readers(job_id)]
        args: list[Any] = [round(submitted_at * 1000), *sorted(ENDED)]
        return bool(self._forget(keys=keys, args=args) == b"yes")

    def is_known(self, job_id: str) -> bool:
        """Whether there is a job of this id."""
        return bool(self._client.exists(self._names.job(job_id)))

    def begin_reading(self, job_id: str) -> str | None:
        """Keeps a job until `end_reading`, to which what it returns is given; None where there is no such job."""
        token = secrets.token_hex(8)
        keys = [self._names.job(job_id), self._names.readers(job_id)]
        return token if self._read(keys=keys, args=[token, READING_TTL]) else None

    def end_reading(self, job_id: str, token: str) -> None:
        """Lets go of the job."""
        self._client.hdel(self._names.readers(job_id), token)
