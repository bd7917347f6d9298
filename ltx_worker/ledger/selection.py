"""Which job a worker takes when a message has come: the one whose turn it is."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import redis

from ltx_client.protocol.names import Names
from ltx_client.protocol.pauses import queue_field, worker_field
from ltx_client.protocol.state import Snapshot, parse_snapshot
from ltx_client.protocol.turns import ENTER_LINE, not_on_field
from ltx_models.memory import MEMORY_CLASSES
from ltx_worker.ledger.scripts import PRELUDE

__all__ = ["PAUSED", "NextTurn", "Turn"]

PAUSED = "paused"
"""Nothing is granted: the worker is paused, or its queue."""

_NEXT = (
    PRELUDE
    + ENTER_LINE
    + """
-- KEYS: turns, paused.
-- ARGV: what the keys line (of the variant), job, state and cancel begin with, the worker's memory classes with a colon
--       before and after each, the fields that keep a job from it by its id and name, a job or '' that is taken first
--       if its cancel was asked, the fields of the worker's pauses, then jobs to leave out.
-- Answers with a job's id, its line and entry, spec, snapshot or false, and links or false; or with nothing; or with
-- 'paused' alone.
local PAGE = 50
local pauses = read({}, 'HMGET', KEYS[2], ARGV[9], ARGV[10])
if pauses[1] or pauses[2] then return {'paused'} end
if ARGV[8] ~= '' and redis.call('EXISTS', ARGV[4] .. ARGV[8]) == 1 then
  local status = read('damaged', 'HGET', ARGV[3] .. ARGV[8], 'status') or 'queued'
  if status == 'queued' then return {ARGV[8], ARGV[2] .. ARGV[8], '', false, false, false} end
end
local left_out = {}
for i = 11, #ARGV do left_out[ARGV[i]] = true end
local function page(key, offset, ...)  -- of an index; what is none is removed, and the reaper makes it anew
  local found = read('damaged', 'ZRANGE', key, offset, offset + PAGE - 1, ...)
  if found ~= 'damaged' then return found end
  redis.call('DEL', key)
  return {}
end
local function look(id, priority)
  local about = read({}, 'HMGET', ARGV[2] .. id, ARGV[6], ARGV[7])
  if about[1] or about[2] then return redis.call('EXISTS', ARGV[4] .. id) == 1 and 'drop' or 'leave' end
  local job = read({}, 'HMGET', ARGV[2] .. id, 'spec', 'held', 'priority', 'links')
  if not job[1] or job[2] then return 'drop' end
  local state = read({'damaged'}, 'HMGET', ARGV[3] .. id, 'status', 'attempt', 'snapshot')
  if (state[1] or 'queued') ~= 'queued' or redis.call('EXISTS', ARGV[4] .. id) == 1 then return 'drop' end
  if (tonumber(state[2] or 0) or 0) > 0 then
    if priority ~= '0' then return 'drop' end
  elseif job[3] and job[3] ~= priority then
    return 'drop'
  end
  return 'take', job[1], state[3], job[4]
end
local function first_in(line, turn)
  local at = 0
  repeat
    local entries = page(line, at)
    for _, entry in ipairs(entries) do
      local class, id = string.match(entry, '^(%d+):(.+)$')
      at = at + 1
      if not class then
        redis.call('ZREM', line, entry)
        at = at - 1
      elseif string.find(ARGV[5], ':' .. class .. ':', 1, true) and not left_out[id] then
        local answer, spec, snapshot, links = look(id, string.sub(turn, 1, 1))
        if answer == 'take' then return {id, line, entry, spec, snapshot, links} end
        if answer == 'drop' then
          redis.call('ZREM', line, entry)
          at = at - 1
        end
      end
    end
  until #entries < PAGE
  return nil
end
local at = 0
repeat
  local turns = page(KEYS[1], at, 'WITHSCORES')
  for i = 1, #turns, 2 do
    at = at + 1
    local turn = turns[i]
    local line = ARGV[1] .. turn
    local is_in_place = is_turn(turn, tonumber(turns[i + 1]))
    local found = is_in_place and first_in(line, turn)
    if not is_in_place then
      redis.call('ZREM', KEYS[1], turn)
      if redis.call('EXISTS', line) == 1 then give_turn(KEYS[1], turn) end
      at = at - 1
    elseif found then
      give_turn(KEYS[1], turn)
      local now, last = redis.call('TIME'), redis.call('ZRANGE', line, 0, 0, 'REV', 'WITHSCORES')
      local behind = math.max(now[1] * 1000 + math.floor(now[2] / 1000), tonumber(last[2]) + 1)
      redis.call('ZADD', line, 'XX', string.format('%.0f', behind), found[3])
      return found
    elseif redis.call('EXISTS', line) == 0 then
      redis.call('ZREM', KEYS[1], turn)
      at = at - 1
    end
  end
until #turns < 2 * PAGE
return {}
"""
)


@dataclass(frozen=True)
class Turn:
    """A job whose turn it is, as it was read.  line: the key of the line in which it waits; entry: its entry there."""

    job_id: str
    line: str
    entry: str
    spec: bytes | None = field(repr=False)
    snapshot: bytes | None = field(repr=False)
    links: bytes | None = field(repr=False)

    def read(self) -> tuple[Snapshot, bytes | None]:
        """As `Ledger.read_with_spec`. Raises UnreadableJob."""
        return parse_snapshot(self.snapshot), self.spec


class NextTurn:
    """Reads and turns the index of those who wait. Methods raise redis.RedisError."""

    def __init__(self, client: redis.Redis, names: Names) -> None:
        self._client = client
        self._names = names
        self._next = client.register_script(_NEXT)

    def next(
        self,
        worker: str,
        worker_name: str,
        variant: str,
        budget_gb: float,
        *,
        cancelled: str = "",
        leave: Collection[str] = (),
    ) -> Turn | str | None:
        """The job whose turn it is, of those that wait for a worker of this variant and memory and are not kept from
        it; None if there is none, PAUSED where nothing would be granted. Its submitter's next turn comes after
        everybody else's; the job stays where it waits, behind the submitter's others, until it is claimed.

        cancelled: a job that comes first if its cancel was asked and nobody has ended it.  leave: ids of jobs to pass
        over.
        """
        names = self._names
        classes = "".join(f":{size}:" for size in MEMORY_CLASSES if size <= budget_gb)
        args: list[Any] = [names.line(variant, ""), names.job(""), names.state(""), names.cancel(""), classes]
        args += [not_on_field(worker), not_on_field(worker_name), cancelled]
        args += [worker_field(worker), queue_field(variant), *leave]
        found: Any = self._next(keys=[names.turns(variant), names.paused()], args=args)
        if len(found) < 2:
            return PAUSED if found else None
        job_id, line, entry, spec, snapshot, links = found
        return Turn(job_id.decode(), line.decode(), entry.decode(), spec, snapshot, links)

    def drop(self, turn: Turn) -> None:
        """Takes a job that no worker can read out of the line in which it waits."""
        self._client.zrem(turn.line, turn.entry)
