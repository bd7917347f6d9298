-- Share functions among the scripts of one attempt's life.

local MAX_EVENTS = 10000  -- about how many a job's stream keeps

-- Append an event to a job's stream, its channel and its snapshot. A script calls it before its other writes: it fails
-- for an event stream of the wrong kind before the job's state is changed, and a server that refuses writes refuses a
-- script's first one.
local function record(state, events, seq, event, snapshot)
  redis.call('XADD', events, 'MAXLEN', '~', MAX_EVENTS, seq .. '-0', 'event', event)
  redis.call('HSET', state, 'seq', seq, 'snapshot', snapshot)
  redis.call('PUBLISH', events, seq .. ' ' .. event)
end

-- Return whether an attempt has this lease.
local function is_leased(lease) return read(false, 'GET', lease) ~= false end

-- Let keys expire after a number of seconds.
local function expire(seconds, keys)
  for _, key in ipairs(keys) do redis.call('EXPIRE', key, seconds) end
end

-- Return whether this attempt, by number and token, is the job's current one.
local function is_current(state, attempt, token)
  local held = redis.call('HMGET', state, 'attempt', 'token')
  return held[1] == attempt and held[2] == token
end
