-- Read the snapshots of jobs.
--
-- KEYS  states.
-- ARGV  none.
--
-- Guarantee: changes nothing. The answer has the number of each state that has a snapshot, from 1, followed by the
-- snapshot, or by 0 for a key of the wrong kind.
local states = rest(KEYS, 1)

local found = {}
for i, state in ipairs(states) do
  local snapshot = read(0, 'HGET', state, 'snapshot')
  if snapshot then
    found[#found + 1] = i
    found[#found + 1] = snapshot
  end
end
return found
