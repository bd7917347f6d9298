-- Take jobs whose records are gone off the farm's list, and remove what workers wrote of them.
--
-- KEYS  jobs; left: of each job its record, then all that may be left when that is gone.
-- ARGV  ids.
--
-- Guarantee: a job of that id that was submitted since is left alone.
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
