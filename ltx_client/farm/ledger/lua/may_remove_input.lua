-- Begin to remove an input, if nobody wants it.
--
-- KEYS  input.
-- ARGV  read_at: when the jobs' inputs were read; holds_for: seconds for which that is valid; token: of the removal;
--       ttl: seconds after which the removal is considered over.
--
-- Guarantee: returns 'yes' to one removal at most, and nobody can want the input until it is over; 'no' while it is
-- wanted or being removed; 'too late' once what was read is no longer valid.
local input = KEYS[1]
local read_at, holds_for, token, ttl = unpack(ARGV)

if redis.call('TIME')[1] - read_at >= tonumber(holds_for) then return 'too late' end
return redis.call('SET', input, token, 'NX', 'EX', ttl) and 'yes' or 'no'
