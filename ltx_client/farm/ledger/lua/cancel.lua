-- Ask for a job's end.
--
-- KEYS  job, state, cancel.
-- ARGV  ttl: seconds that a job lives whose cancel ends it; ended: the states that are the end.
--
-- Guarantee: answers with the state at that moment, or 'missing'. A job that has ended is left as it is, a waiting one
-- is never run, and the worker of a running one is woken. The state is the workers' to write: they end it, or drop it
-- when the job's time ran out.
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
