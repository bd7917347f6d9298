-- Ask for a job's end.
--
-- KEYS  job, state, cancel.
-- ARGV  ttl: seconds for which a job that this ends is kept; changes: a channel; asked: its message; ended: the final
--       states.
--
-- Guarantee: returns the state at that moment, or 'missing'. A job that has ended is left as it is, a waiting one
-- is never run, and the worker of a running one is woken. Workers write the state: they end it, or drop it
-- when the job has expired. The channel is told of the first call that is not refused.
-- include: changes
local job, state, cancel = unpack(KEYS)
local ttl, changes, asked = unpack(ARGV, 1, 3)
local ended = rest(ARGV, 4)

if redis.call('EXISTS', job) == 0 then
  return 'missing'
end
local status = redis.call('HGET', state, 'status') or 'queued'
if contains(ended, status) then return status end
local is_asked = redis.call('EXISTS', cancel) == 1
redis.call('SET', cancel, '1')
if status == 'queued' then
  redis.call('EXPIRE', job, ttl)
  redis.call('EXPIRE', cancel, ttl)
end
redis.call('PUBLISH', cancel, '1')
if not is_asked then tell(changes, asked) end
return status
