-- Write what a batch is, before its jobs.
--
-- KEYS  of `batch`.
-- ARGV  of `batch`, then name, submitter.
--
-- Guarantee: the same again changes nothing but when it was noted. What is known of an earlier batch of this id, whose
-- jobs are all gone, goes.
-- include: batch
local name, submitter = unpack(ARGV, 4)

if noted_at and not is_new and not has_jobs() then redis.call('DEL', batch, batch_jobs) end
redis.call('HSETNX', batch, 'name', name)
redis.call('HSETNX', batch, 'submitter', submitter)
redis.call('HSETNX', batch, 'submitted_at', now)
redis.call('HSET', batch, 'noted_at', now)
redis.call('ZADD', batches, tonumber(redis.call('HGET', batch, 'submitted_at')) or now, id)
return 1
