-- Remove a worker from the farm's list.
--
-- KEYS  worker, workers.
-- ARGV  id, run; changes: a channel; left: its message.
--
-- Guarantee: the answer is 0, with nothing changed, if the record is another run's. Else the channel is told.
-- include: changes
local worker, workers = unpack(KEYS)
local id, run, changes, left = unpack(ARGV)

if redis.call('HGET', worker, 'run') ~= run then return 0 end
redis.call('DEL', worker)
redis.call('ZREM', workers, id)
tell(changes, left)
return 1
