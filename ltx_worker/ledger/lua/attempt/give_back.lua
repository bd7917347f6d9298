-- Give a job back to the queue, or end it, for `release` and `requeue`.
--
-- KEYS  job, state, lease, cancel, events, preview, latents; line, turns: where it waits again, or twice the key `job`.
-- ARGV  seq; released, released_snapshot, failed, failed_snapshot, cancelled, cancelled_snapshot: events and the
--       snapshots after them; strike: its kind, or ''; limit: of strikes of that kind; ttl, preview_ttl: seconds until
--       a job that is ended here, and its preview, expire; machine: where the strike was, or ''; turn; entry: in the
--       line, or '' for none; changes: a channel; released_change, failed_change, cancelled_change: its messages.
-- include: attempt, turns, changes
local job, state, lease, cancel, events, preview, latents, line, turns = unpack(KEYS)
local seq, released, released_snapshot, failed, failed_snapshot = unpack(ARGV)
local cancelled, cancelled_snapshot, strike, limit, ttl, preview_ttl, machine, turn, entry = unpack(ARGV, 6)
local changes, released_change, failed_change, cancelled_change = unpack(ARGV, 15)

-- Count a strike and return the number of its kind; strikes for NaN on one machine count once.
local function count_strike()
  if strike ~= 'not_finite' then return redis.call('HINCRBY', state, strike, 1) end
  redis.call('DEL', latents)
  local known = redis.call('HGET', state, 'not_finite_by') or ''
  if string.find(known, '|' .. machine .. '|', 1, true) then return 0 end
  redis.call('HSET', state, 'not_finite_by', known .. '|' .. machine .. '|')
  return redis.call('HINCRBY', state, strike, 1)
end

-- Give the job back, tell the channel, and return the job's status: 'queued', 'cancelled' if that was asked, 'failed'
-- at the limit of strikes.
local function give_back()
  local status, event, snapshot, change = 'queued', released, released_snapshot, released_change
  if redis.call('EXISTS', cancel) == 1 then
    status, event, snapshot, change = 'cancelled', cancelled, cancelled_snapshot, cancelled_change
  elseif strike ~= '' and count_strike() >= tonumber(limit) then
    status, event, snapshot, change = 'failed', failed, failed_snapshot, failed_change
  end
  record(state, events, seq, event, snapshot)
  redis.call('HSET', state, 'status', status)
  redis.call('DEL', lease)
  if status ~= 'queued' then
    redis.call('DEL', latents)
    expire(ttl, {job, state, cancel, events})
    expire(preview_ttl, {preview})
  elseif entry ~= '' then
    enter_line(line, turns, turn, entry, redis.call('HGET', job, 'submitted_at') or 0)
  end
  tell(changes, change)
  return status
end
