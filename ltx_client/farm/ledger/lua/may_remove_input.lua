-- Begin to remove an input, if nobody wants it.
--
-- KEYS  input.
-- ARGV  read_at: when it was read which jobs need what; holds_for: seconds for which that holds; token: of the removal;
--       ttl: seconds after which the removal is taken to be over.
--
-- Guarantee: answers 'yes' to one removal at most, and nobody can want the input until it is over; 'no' while it is
-- wanted or being removed; 'too late' once what was read no longer holds.
local input = KEYS[1]
local read_at, holds_for, token, ttl = unpack(ARGV)

if redis.call('TIME')[1] - read_at >= tonumber(holds_for) then return 'too late' end
return redis.call('SET', input, token, 'NX', 'EX', ttl) and 'yes' or 'no'
