-- Write a worker's record.
--
-- KEYS  worker, workers, paused.
-- ARGV  id, run; former_run: of the same LTX_HOME; seen_at; ttl_ms: milliseconds until the record expires;
--       forgotten_at: ids that were last seen before it are removed from the list; worker_field, queue_field: of
--       paused; changes: a channel; came, changed: its messages; told: how many of the fields, from the first on, are
--       told when they change; fields: names and values of the record.
--
-- Guarantee: the record of another run, except the former one, is not changed. The answer has the values of the two
-- fields of paused, the run and the time in the record of another run or false, and a key that was damaged or false.
-- Damaged keys are replaced; the list has each worker again after its next beat. The channel is told of a run that had
-- no record, and of fields that have changed.
-- include: changes
local worker, workers, paused = unpack(KEYS)
local id, run, former_run, seen_at, ttl_ms, forgotten_at, worker_field, queue_field = unpack(ARGV, 1, 8)
local changes, came, changed, told = unpack(ARGV, 9, 12)
local fields = rest(ARGV, 13)

-- Return whether the record has other values of the fields that are told.
local function differs()
  for i = 1, 2 * told, 2 do
    if redis.call('HGET', worker, fields[i]) ~= fields[i + 1] then return true end
  end
  return false
end

local found = read('damaged', 'HMGET', worker, 'run', 'seen_at')
local pauses = read({false, false}, 'HMGET', paused, worker_field, queue_field)
if found == 'damaged' then redis.call('DEL', worker) end
if found ~= 'damaged' and found[1] and found[1] ~= run and found[1] ~= former_run then
  return {pauses[1], pauses[2], found[1] .. ' ' .. (found[2] or ''), false}
end
local news = (found == 'damaged' or found[1] ~= run) and came or differs() and changed
redis.call('HSET', worker, unpack(fields))
redis.call('PEXPIRE', worker, ttl_ms)
if news then tell(changes, news) end
local damaged = found == 'damaged' and worker or false
if read('damaged', 'ZADD', workers, seen_at, id) == 'damaged' then
  damaged = workers
  redis.pcall('DEL', workers)  -- a user of an older version has no right to it
  if read('damaged', 'ZADD', workers, seen_at, id) == 'damaged' then
    return {pauses[1], pauses[2], false, damaged}
  end
end
redis.call('ZREMRANGEBYSCORE', workers, '-inf', forgotten_at)
return {pauses[1], pauses[2], false, damaged}
