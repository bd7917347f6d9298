-- Remove jobs whose records are gone from the farm's list, and the keys that workers wrote for them.
--
-- KEYS  jobs; left: for each job the key of its record, then all keys that may remain when the record is gone.
-- ARGV  changes: a channel; dropped: for each job its id, then the channel's message.
--
-- Guarantee: a job of the same id that was submitted since is not touched. The channel is told of each that is dropped.
-- include: changes
local jobs = KEYS[1]
local left = rest(KEYS, 2)
local changes = ARGV[1]
local dropped = rest(ARGV, 2)

local kinds = #left / (#dropped / 2)
for i = 1, #dropped / 2 do
  local at = 1 + (i - 1) * kinds
  if redis.call('EXISTS', left[at]) == 0 then
    redis.call('DEL', unpack(left, at + 1, at + kinds - 1))
    if redis.call('ZREM', jobs, dropped[2 * i - 1]) == 1 then tell(changes, dropped[2 * i]) end
  end
end
