-- Remove the record of a batch whose jobs are all gone.
--
-- KEYS  of `batch`.
-- ARGV  of `batch`, then changes: a channel; removed: its message.
--
-- Guarantee: a batch that has a job, or was just written, is left as it is, and 0 is returned. The channel is told of
-- one that this has removed.
-- include: batch, changes
local changes, removed = unpack(ARGV, 4)

if is_new or has_jobs() then return 0 end
redis.call('DEL', batch, batch_jobs)
if redis.call('ZREM', batches, id) == 1 then tell(changes, removed) end
return 1
