-- Remove a worker from the farm's list.
--
-- KEYS  worker, workers.
-- ARGV  id, run.
--
-- Guarantee: the answer is 0, with nothing changed, if the record is another run's.
local worker, workers = unpack(KEYS)
local id, run = unpack(ARGV)

if redis.call('HGET', worker, 'run') ~= run then return 0 end
redis.call('DEL', worker)
redis.call('ZREM', workers, id)
return 1
