-- Store the resume point from which the next attempt continues.
--
-- KEYS  state, latents.
-- ARGV  attempt, token, resume_point.
--
-- Guarantee: 'stale', with nothing changed, unless the attempt is the current one of a running job. It replaces an
-- older resume point.
-- include: attempt
local state, latents = unpack(KEYS)
local attempt, token, resume_point = unpack(ARGV)

if not is_current(state, attempt, token) then return 'stale' end
if redis.call('HGET', state, 'status') ~= 'running' then return 'stale' end
redis.call('SET', latents, resume_point)
return 'saved'
