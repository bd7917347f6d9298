-- Remove the record of a batch whose jobs are all gone.
--
-- KEYS  of `batch`.
-- ARGV  of `batch`.
--
-- Guarantee: a batch that has a job, or was just written, is left as it is, and 0 is returned.
-- include: batch

if is_new or has_jobs() then return 0 end
redis.call('DEL', batch, batch_jobs)
redis.call('ZREM', batches, id)
return 1
