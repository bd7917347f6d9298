-- Remove the client's keys of a job that has ended.
--
-- KEYS  job, state, cancel, readers.
-- ARGV  submitted_at: as it was read; changes: a channel; removed: its message; ended: the final states.
--
-- Guarantee: returns 'yes' if they are gone; 'no', and nothing was changed, for a job that was submitted since, one
-- that somebody downloads, and one that has not ended. The id stays on the list of jobs, where a worker finds that its
-- record is gone, and removes what workers wrote about it. The channel is told of what this has removed.
-- include: changes
local job, state, cancel, readers = unpack(KEYS)
local submitted_at, changes, removed = unpack(ARGV, 1, 3)
local ended = rest(ARGV, 4)

local known = redis.call('HGET', job, 'submitted_at')
if not known then return 'yes' end
if known ~= submitted_at or redis.call('EXISTS', readers) == 1 then return 'no' end
local status = redis.call('HGET', state, 'status') or 'queued'
local cancelled = status == 'queued' and redis.call('EXISTS', cancel) == 1
if not cancelled and not contains(ended, status) then return 'no' end
redis.call('DEL', job, cancel)
tell(changes, removed)
return 'yes'
