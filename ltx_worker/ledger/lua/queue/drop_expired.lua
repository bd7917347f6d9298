-- Remove jobs whose records are gone from the farm's list, and the keys that workers wrote for them.
--
-- KEYS  jobs; left: for each job the key of its record, then all keys that may remain when the record is gone.
-- ARGV  ids.
--
-- Guarantee: a job of the same id that was submitted since is not touched.
local jobs = KEYS[1]
local left = rest(KEYS, 2)
local ids = rest(ARGV, 1)

local kinds = #left / #ids
for i, id in ipairs(ids) do
  local at = 1 + (i - 1) * kinds
  if redis.call('EXISTS', left[at]) == 0 then
    redis.call('DEL', unpack(left, at + 1, at + kinds - 1))
    redis.call('ZREM', jobs, id)
  end
end
