-- Tell which keys there are.
--
-- KEYS  keys: of any kind.
-- ARGV  none.
--
-- Guarantee: changes nothing. Answers with the numbers of those that there are, from 1.
local keys = rest(KEYS, 1)

local found = {}
for i, key in ipairs(keys) do
  if redis.call('EXISTS', key) == 1 then found[#found + 1] = i end
end
return found
