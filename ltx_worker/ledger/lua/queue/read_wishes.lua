-- Read what was asked of jobs since they were submitted.
--
-- KEYS  jobs.
-- ARGV  none.
--
-- Guarantee: changes nothing. Answers with the number of each job of which something was asked, from 1; after it the
-- priority that was asked for, or '', and 1 of a job that is paused, else 0.
local jobs = rest(KEYS, 1)

local wishes = {}
for i, job in ipairs(jobs) do
  local priority, held = read('', 'HGET', job, 'priority') or '', read(0, 'HEXISTS', job, 'held')
  if priority ~= '' or held == 1 then
    wishes[#wishes + 1] = i
    wishes[#wishes + 1] = priority
    wishes[#wishes + 1] = held
  end
end
return wishes
