-- Write what becomes of a job, for the scripts of one attempt's life.

local MAX_EVENTS = 10000  -- about how many a job's stream keeps

-- Append an event to a job's stream, its channel and its snapshot. Stands before the other writes of a script: a log
-- that holds another kind of value is noticed before the job's state is changed. A server that takes no writes now
-- refuses a script's first one.
local function record(state, events, seq, event, snapshot)
  redis.call('XADD', events, 'MAXLEN', '~', MAX_EVENTS, seq .. '-0', 'event', event)
  redis.call('HSET', state, 'seq', seq, 'snapshot', snapshot)
  redis.call('PUBLISH', events, seq .. ' ' .. event)
end

-- Return whether somebody has this lease.
local function is_leased(lease) return read(false, 'GET', lease) ~= false end

-- Have keys go after so many seconds.
local function expire(seconds, keys)
  for _, key in ipairs(keys) do redis.call('EXPIRE', key, seconds) end
end

-- Return whether this attempt, by number and token, is the job's current one.
local function is_current(state, attempt, token)
  local held = redis.call('HMGET', state, 'attempt', 'token')
  return held[1] == attempt and held[2] == token
end
