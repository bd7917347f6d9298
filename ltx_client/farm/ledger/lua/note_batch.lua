-- Write a batch's record, before its jobs.
--
-- KEYS  of `batch`.
-- ARGV  of `batch`, then name, submitter; changes: a channel; submitted: its message.
--
-- Guarantee: writing it again changes only `noted_at`. The record of an earlier batch with this id, whose jobs are all
-- gone, is removed. The channel is told of a new record.
-- include: batch, changes
local name, submitter, changes, submitted = unpack(ARGV, 4)

if noted_at and not is_new and not has_jobs() then redis.call('DEL', batch, batch_jobs) end
redis.call('HSETNX', batch, 'name', name)
redis.call('HSETNX', batch, 'submitter', submitter)
local is_first = redis.call('HSETNX', batch, 'submitted_at', now) == 1
redis.call('HSET', batch, 'noted_at', now)
redis.call('ZADD', batches, tonumber(redis.call('HGET', batch, 'submitted_at')) or now, id)
if is_first then tell(changes, submitted) end
return 1
