-- Find the leases that an attempt has.
--
-- KEYS  keys: of leases.
-- ARGV  none.
--
-- Guarantee: changes nothing. The answer has their numbers, from 1; a key of the wrong kind is no lease.
local keys = rest(KEYS, 1)

local found = {}
for i, key in ipairs(keys) do
  if read(false, 'GET', key) ~= false then found[#found + 1] = i end
end
return found
