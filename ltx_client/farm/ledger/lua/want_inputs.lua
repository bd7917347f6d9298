-- Keep inputs from being removed.
--
-- KEYS  inputs.
-- ARGV  ttl: seconds for which they are kept.
--
-- Guarantee: answers 1 and all are wanted, or 0 and nothing was written, while one of them is being removed.
local inputs = rest(KEYS, 1)
local ttl = ARGV[1]

for _, input in ipairs(inputs) do
  local said = redis.pcall('GET', input)  -- of another type: it says nothing, and is written anew
  if type(said) == 'string' and said ~= 'wanted' then return 0 end
end
for _, input in ipairs(inputs) do redis.call('SET', input, 'wanted', 'EX', ttl) end
return 1
