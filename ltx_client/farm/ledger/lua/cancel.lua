-- Ask for a job's end.
--
-- KEYS  job, state, cancel.
-- ARGV  ttl: seconds for which a job that this ends is kept; ended: the final states.
--
-- Guarantee: returns the state at that moment, or 'missing'. A job that has ended is left as it is, a waiting one
-- is never run, and the worker of a running one is woken. Workers write the state: they end it, or drop it
-- when the job has expired.
local job, state, cancel = unpack(KEYS)
local ttl = ARGV[1]
local ended = rest(ARGV, 2)

if redis.call('EXISTS', job) == 0 then
  return 'missing'
end
local status = redis.call('HGET', state, 'status') or 'queued'
if contains(ended, status) then return status end
redis.call('SET', cancel, '1')
if status == 'queued' then
  redis.call('EXPIRE', job, ttl)
  redis.call('EXPIRE', cancel, ttl)
end
redis.call('PUBLISH', cancel, '1')
return status
