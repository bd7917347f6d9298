"""The ledger's Lua. What each script guarantees stands with the method of `Ledger` that runs it.

`KEYS` and `ARGV` are named at the head of each. Scripts answer with a word; `stale` and `gap` are refusals.
"""

from __future__ import annotations

from ltx_client.protocol.file_names import TOKEN_SHOWN
from ltx_client.protocol.turns import ENTER_LINE

__all__ = ["FIND_LEASED", "FIND_PRESENT", "PRELUDE", "READ_SNAPSHOTS", "READ_WISHES", "SCRIPTS"]

MAX_EVENTS = 10_000
"""About how many events a job's stream keeps."""
LONGEST_TOKENS = 100 * (TOKEN_SHOWN + 1)
"""Characters: of the newest 100 attempts of a job, it is remembered that this farm has granted them."""

PRELUDE = """
-- Stands before the other writes of a script: a log that holds another kind of value is noticed before the job's state
-- is changed. A server that takes no writes now refuses a script's first one.
local function record(state, events, seq, event, snapshot)
  redis.call('XADD', events, 'MAXLEN', '~', MAX_EVENTS, seq .. '-0', 'event', event)
  redis.call('HSET', state, 'seq', seq, 'snapshot', snapshot)
  redis.call('PUBLISH', events, seq .. ' ' .. event)
end
-- What a key holds as `command` reads it; `damaged` where it holds another kind of value.
local function read(damaged, command, ...)
  local reply = redis.pcall(command, ...)
  if type(reply) ~= 'table' or not reply.err then return reply end
  if string.find(tostring(reply.err), 'WRONGTYPE', 1, true) then return damaged end
  error(reply.err)
end
local function is_leased(key) return read(false, 'GET', key) ~= false end
local function expire(seconds, keys)
  for _, key in ipairs(keys) do redis.call('EXPIRE', key, seconds) end
end
local function is_current(state, attempt, token)
  local held = redis.call('HMGET', state, 'attempt', 'token')
  return held[1] == attempt and held[2] == token
end
""".replace("MAX_EVENTS", str(MAX_EVENTS))

_CLAIM = """
-- KEYS: job, state, lease, cancel, events, preview, latents, the line that it waits in or job again.
-- ARGV: attempt, token, seq, lease in ms, claimed event, its snapshot, cancelled event, its snapshot, ttl,
--       preview ttl, the key paused, its fields of this worker and its queue, its entry in the line or '', then the
--       states from which a job may be claimed.
if redis.call('EXISTS', KEYS[1]) == 0 then return 'gone' end
local held = redis.call('HMGET', KEYS[2], 'status', 'attempt', 'token', 'seq')
local status, attempt, seq = held[1] or 'queued', tonumber(held[2] or 0), tonumber(held[4] or 0)
if held[3] == ARGV[2] then
  if status == 'cancelled' then return 'cancelled' end
  return 'mine'
end
local claimable = false
for i = 15, #ARGV do claimable = claimable or ARGV[i] == status end
if not claimable then return 'ended' end
if is_leased(KEYS[3]) then return 'leased' end
if tonumber(ARGV[1]) ~= attempt + 1 or tonumber(ARGV[3]) ~= seq + 1 then return 'raced' end
if redis.call('EXISTS', KEYS[4]) == 1 then
  record(KEYS[2], KEYS[5], ARGV[3], ARGV[7], ARGV[8])
  redis.call('HSET', KEYS[2], 'status', 'cancelled', 'attempt', attempt, 'token', ARGV[2])
  redis.call('DEL', KEYS[7])
  expire(ARGV[9], {KEYS[1], KEYS[2], KEYS[4], KEYS[5]})
  expire(ARGV[10], {KEYS[6]})
  return 'cancelled'
end
if redis.call('HEXISTS', KEYS[1], 'held') == 1 then return 'held' end
local pauses = read({}, 'HMGET', ARGV[11], ARGV[12], ARGV[13])
if pauses[1] or pauses[2] then return 'paused' end
record(KEYS[2], KEYS[5], ARGV[3], ARGV[5], ARGV[6])
local tokens = string.sub(ARGV[2], 1, SHOWN) .. ' ' .. (redis.call('HGET', KEYS[2], 'tokens') or '')
tokens = string.sub(tokens, 1, LONGEST)
redis.call('HSET', KEYS[2], 'status', 'running', 'attempt', ARGV[1], 'token', ARGV[2], 'tokens', tokens)
redis.call('SET', KEYS[3], ARGV[2], 'PX', ARGV[4])
redis.call('DEL', KEYS[6])
if ARGV[14] ~= '' then read(0, 'ZREM', KEYS[8], ARGV[14]) end
return 'claimed'
""".replace("SHOWN", str(TOKEN_SHOWN)).replace("LONGEST", str(LONGEST_TOKENS))

_RENEW = """
-- KEYS: state, lease, cancel, job.  ARGV: attempt, token, lease in ms.
if not is_current(KEYS[1], ARGV[1], ARGV[2]) then return 'stale' end
if redis.call('HGET', KEYS[1], 'status') ~= 'running' then return 'stale' end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
if redis.call('EXISTS', KEYS[3]) == 1 then return 'cancel' end
return redis.call('HEXISTS', KEYS[4], 'held') == 1 and 'pause' or 'go on'
"""

_EMIT = """
-- KEYS: state, events, cancel, preview.
-- ARGV: attempt, token, seq, event, snapshot, the step that is done, preview JPEG or ''.
if not is_current(KEYS[1], ARGV[1], ARGV[2]) then return 'stale' end
local held = redis.call('HMGET', KEYS[1], 'status', 'seq')
if held[1] ~= 'running' then return 'stale' end
if tonumber(ARGV[3]) == tonumber(held[2]) + 1 then
  record(KEYS[1], KEYS[2], ARGV[3], ARGV[4], ARGV[5])
  if ARGV[7] ~= '' then redis.call('SET', KEYS[4], ARGV[7]) end
  if tonumber(ARGV[6]) > tonumber(redis.call('HGET', KEYS[1], 'furthest') or 0) then
    redis.call('HSET', KEYS[1], 'furthest', ARGV[6], 'mishaps', 0, 'not_finite', 0, 'not_finite_by', '')
    redis.call('HSET', KEYS[1], 'host_faults', 0, 'deaths', 0, 'lapses', 0)
  end
elseif tonumber(ARGV[3]) > tonumber(held[2]) then
  return 'gap'
end
return redis.call('EXISTS', KEYS[3]) == 1 and 'cancel' or 'go on'
"""

_COMMIT = """
-- KEYS: job, state, lease, cancel, events, preview, result, latents.
-- ARGV: attempt, token, seq, status, event, snapshot, ttl, preview ttl, result JSON or ''.
if not is_current(KEYS[2], ARGV[1], ARGV[2]) then return 'stale' end
local held = redis.call('HMGET', KEYS[2], 'status', 'seq')
if held[1] == ARGV[4] then return 'committed' end
if held[1] ~= 'running' then return 'stale' end
if ARGV[4] == 'done' and redis.call('EXISTS', KEYS[4]) == 1 then return 'cancel' end
if tonumber(ARGV[3]) ~= tonumber(held[2]) + 1 then return 'gap' end
if ARGV[9] ~= '' then
  redis.call('HSET', KEYS[7], 'attempt', ARGV[1], 'files', ARGV[9])
end
record(KEYS[2], KEYS[5], ARGV[3], ARGV[5], ARGV[6])
redis.call('HSET', KEYS[2], 'status', ARGV[4])
redis.call('DEL', KEYS[3], KEYS[8])
expire(ARGV[7], {KEYS[1], KEYS[2], KEYS[4], KEYS[5], KEYS[7]})
expire(ARGV[8], {KEYS[6]})
return 'committed'
"""

_GIVE_BACK = (
    ENTER_LINE
    + """
-- KEYS: job, state, lease, cancel, events, preview, latents, the line where it waits again, turns.
-- ARGV from `first`: seq, then event and snapshot of released, failed and cancelled, strike or '', limit, ttl,
--       preview ttl, the machine that had the strike or '', turn, entry.
local function strikes(strike, by)
  if strike ~= 'not_finite' then return redis.call('HINCRBY', KEYS[2], strike, 1) end
  redis.call('DEL', KEYS[7])
  local known = redis.call('HGET', KEYS[2], 'not_finite_by') or ''
  if string.find(known, '|' .. by .. '|', 1, true) then return 0 end
  redis.call('HSET', KEYS[2], 'not_finite_by', known .. '|' .. by .. '|')
  return redis.call('HINCRBY', KEYS[2], strike, 1)
end
local function give_back(first)
  local seq, strike, status, pair = ARGV[first], ARGV[first + 7], 'queued', first + 1
  if redis.call('EXISTS', KEYS[4]) == 1 then
    status, pair = 'cancelled', first + 5
  elseif strike ~= '' and strikes(strike, ARGV[first + 11]) >= tonumber(ARGV[first + 8]) then
    status, pair = 'failed', first + 3
  end
  record(KEYS[2], KEYS[5], seq, ARGV[pair], ARGV[pair + 1])
  redis.call('HSET', KEYS[2], 'status', status)
  redis.call('DEL', KEYS[3])
  if status ~= 'queued' then
    redis.call('DEL', KEYS[7])
    expire(ARGV[first + 9], {KEYS[1], KEYS[2], KEYS[4], KEYS[5]})
    expire(ARGV[first + 10], {KEYS[6]})
  elseif KEYS[8] then
    enter_line(KEYS[8], KEYS[9], ARGV[first + 12], ARGV[first + 13], redis.call('HGET', KEYS[1], 'submitted_at') or 0)
  end
  return status
end
"""
)

_RELEASE = (
    _GIVE_BACK
    + """
-- KEYS: as give_back has them.  ARGV: attempt, token, then as give_back has them.
if not is_current(KEYS[2], ARGV[1], ARGV[2]) then return 'stale' end
local held = redis.call('HMGET', KEYS[2], 'status', 'seq')
if held[1] ~= 'running' then
  return tonumber(held[2]) == tonumber(ARGV[3]) and held[1] or 'stale'
end
if tonumber(ARGV[3]) ~= tonumber(held[2]) + 1 then return 'gap' end
return give_back(3)
"""
)

_REQUEUE = (
    _GIVE_BACK
    + """
-- KEYS: as give_back has them.  ARGV: attempt, then as give_back has them.
local held = redis.call('HMGET', KEYS[2], 'status', 'attempt', 'seq')
local status, attempt, seq = held[1] or 'queued', tonumber(held[2] or 0), tonumber(held[3] or 0)
if redis.call('EXISTS', KEYS[1]) == 0 or is_leased(KEYS[3]) then return 'left' end
if tonumber(ARGV[1]) ~= attempt or tonumber(ARGV[2]) ~= seq + 1 then return 'left' end
if status == 'running' then return give_back(2) end
if status == 'queued' and redis.call('EXISTS', KEYS[4]) == 1 then return give_back(2) end
return 'left'
"""
)

_SAVE = """
-- KEYS: state, latents.  ARGV: attempt, token, resume point.
if not is_current(KEYS[1], ARGV[1], ARGV[2]) then return 'stale' end
if redis.call('HGET', KEYS[1], 'status') ~= 'running' then return 'stale' end
redis.call('SET', KEYS[2], ARGV[3])
return 'saved'
"""

SCRIPTS = {
    name: PRELUDE + body
    for name, body in {
        "claim": _CLAIM,
        "renew": _RENEW,
        "emit": _EMIT,
        "save": _SAVE,
        "commit": _COMMIT,
        "release": _RELEASE,
        "requeue": _REQUEUE,
    }.items()
}

READ_SNAPSHOTS = (
    PRELUDE
    + """
-- KEYS: states.  Answers with the number of each that has a snapshot, from 1, and after it the snapshot; 0 in its place
-- where the key holds another kind of value.
local found = {}
for i, key in ipairs(KEYS) do
  local snapshot = read(0, 'HGET', key, 'snapshot')
  if snapshot then
    found[#found + 1] = i
    found[#found + 1] = snapshot
  end
end
return found
"""
)

FIND_PRESENT = """
-- KEYS: any.  Answers with the numbers of those that there are, from 1.
local found = {}
for i, key in ipairs(KEYS) do
  if redis.call('EXISTS', key) == 1 then found[#found + 1] = i end
end
return found
"""

FIND_LEASED = (
    PRELUDE
    + """
-- KEYS: leases.  Answers with the numbers of those that somebody has, from 1.
local found = {}
for i, key in ipairs(KEYS) do
  if is_leased(key) then found[#found + 1] = i end
end
return found
"""
)

READ_WISHES = (
    PRELUDE
    + """
-- KEYS: jobs.  Answers with the number of each of which something was asked since it was submitted, from 1; after it
-- the priority that was asked for, or '', and 1 of a job that is held, else 0.
local wishes = {}
for i, key in ipairs(KEYS) do
  local priority, held = read('', 'HGET', key, 'priority') or '', read(0, 'HEXISTS', key, 'held')
  if priority ~= '' or held == 1 then
    wishes[#wishes + 1] = i
    wishes[#wishes + 1] = priority
    wishes[#wishes + 1] = held
  end
end
return wishes
"""
)
