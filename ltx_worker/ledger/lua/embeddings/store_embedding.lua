-- Put an embedding into the cache.
--
-- KEYS  index, key.
-- ARGV  ttl: seconds without use until it expires; member: of the index; value.
--
-- Guarantee: the value is in the index as used now.
local index, key = unpack(KEYS)
local ttl, member, value = unpack(ARGV)

redis.call('SET', key, value, 'EX', ttl)
redis.call('ZADD', index, seconds_now(), member)
