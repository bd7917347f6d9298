-- Remove the client's keys of a job that has ended.
--
-- KEYS  job, state, cancel, readers.
-- ARGV  submitted_at: as it was read; ended: the final states.
--
-- Guarantee: returns 'yes' if they are gone; 'no', and nothing was changed, for a job that was submitted since, one
-- that somebody downloads, and one that has not ended. The id stays on the list of jobs, where a worker finds that its
-- record is gone, and removes what workers wrote about it.
local job, state, cancel, readers = unpack(KEYS)
local submitted_at = ARGV[1]
local ended = rest(ARGV, 2)

local known = redis.call('HGET', job, 'submitted_at')
if not known then return 'yes' end
if known ~= submitted_at or redis.call('EXISTS', readers) == 1 then return 'no' end
local status = redis.call('HGET', state, 'status') or 'queued'
local cancelled = status == 'queued' and redis.call('EXISTS', cancel) == 1
if not cancelled and not contains(ended, status) then return 'no' end
redis.call('DEL', job, cancel)
return 'yes'
