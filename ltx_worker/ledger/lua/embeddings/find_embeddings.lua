-- Read embeddings from the cache, and record that they were used now.
--
-- KEYS  index, values.
-- ARGV  ttl: seconds until they expire; largest: the most bytes of one that is read; members: of the index, one a
--       value.
--
-- Guarantee: the answer has a value, or false, for each key. An embedding that is not in the index is not added to it.
local index = KEYS[1]
local values = rest(KEYS, 2)
local ttl, largest = unpack(ARGV, 1, 2)
local members = rest(ARGV, 3)

local found, now = {}, seconds_now()
for i, value in ipairs(values) do
  found[i] = redis.call('STRLEN', value) <= tonumber(largest) and redis.call('GETEX', value, 'EX', ttl)
  if found[i] then redis.call('ZADD', index, 'XX', now, members[i]) end
end
return found
