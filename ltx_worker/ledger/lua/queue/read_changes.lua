-- Read what was changed of jobs since they were submitted.
--
-- KEYS  jobs.
-- ARGV  none.
--
-- Guarantee: changes nothing. The answer has the number of each job that was changed, from 1, followed by its new
-- priority, or '', and by 1 if it is paused, else 0.
local jobs = rest(KEYS, 1)

local changes = {}
for i, job in ipairs(jobs) do
  local priority, held = read('', 'HGET', job, 'priority') or '', read(0, 'HEXISTS', job, 'held')
  if priority ~= '' or held == 1 then
    changes[#changes + 1] = i
    changes[#changes + 1] = priority
    changes[#changes + 1] = held
  end
end
return changes
