-- Find the keys that exist.
--
-- KEYS  keys: of any kind.
-- ARGV  none.
--
-- Guarantee: changes nothing. The answer has the numbers of the keys that exist, from 1.
local keys = rest(KEYS, 1)

local found = {}
for i, key in ipairs(keys) do
  if redis.call('EXISTS', key) == 1 then found[#found + 1] = i end
end
return found
