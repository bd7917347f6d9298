-- Keep inputs from being removed.
--
-- KEYS  inputs.
-- ARGV  ttl: seconds for which they are kept.
--
-- Guarantee: returns 1, and all are wanted; or 0, with nothing written, while one of them is being removed.
local inputs = rest(KEYS, 1)
local ttl = ARGV[1]

for _, input in ipairs(inputs) do
  local said = redis.pcall('GET', input)  -- a value of another type is replaced
  if type(said) == 'string' and said ~= 'wanted' then return 0 end
end
for _, input in ipairs(inputs) do redis.call('SET', input, 'wanted', 'EX', ttl) end
return 1
