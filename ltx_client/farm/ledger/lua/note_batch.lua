-- Write a batch's record, before its jobs.
--
-- KEYS  of `batch`.
-- ARGV  of `batch`, then name, submitter.
--
-- Guarantee: writing it again changes only `noted_at`. The record of an earlier batch with this id, whose jobs are all
-- gone, is removed.
-- include: batch
local name, submitter = unpack(ARGV, 4)

if noted_at and not is_new and not has_jobs() then redis.call('DEL', batch, batch_jobs) end
redis.call('HSETNX', batch, 'name', name)
redis.call('HSETNX', batch, 'submitter', submitter)
redis.call('HSETNX', batch, 'submitted_at', now)
redis.call('HSET', batch, 'noted_at', now)
redis.call('ZADD', batches, tonumber(redis.call('HGET', batch, 'submitted_at')) or now, id)
return 1
