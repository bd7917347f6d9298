-- Read the snapshots of jobs.
--
-- KEYS  states.
-- ARGV  none.
--
-- Guarantee: changes nothing. Answers with the number of each state that has a snapshot, from 1, and after it the
-- snapshot; 0 in its place where the key holds another kind of value.
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
