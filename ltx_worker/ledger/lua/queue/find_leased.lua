-- Tell which leases somebody has.
--
-- KEYS  keys: of leases.
-- ARGV  none.
--
-- Guarantee: changes nothing. Answers with the numbers of those that somebody has, from 1; a key that holds another
-- kind of value is nobody's.
local keys = rest(KEYS, 1)

local found = {}
for i, key in ipairs(keys) do
  if read(false, 'GET', key) ~= false then found[#found + 1] = i end
end
return found
