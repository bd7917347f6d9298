-- Give back the job of the attempt that calls.
--
-- KEYS  of `give_back`.
-- ARGV  of `give_back`, then attempt, token.
--
-- Guarantee: sent again, it changes nothing and gives the same answer. A refusal changes nothing: 'stale' unless the
-- attempt is the current one of a running job; 'gap' if an event before this one is missing.
-- include: give_back
local attempt, token = unpack(ARGV, 19)

if not is_current(state, attempt, token) then return 'stale' end
local held = redis.call('HMGET', state, 'status', 'seq')
if held[1] ~= 'running' then
  return tonumber(held[2]) == tonumber(seq) and held[1] or 'stale'
end
if tonumber(seq) ~= tonumber(held[2]) + 1 then return 'gap' end
return give_back()
