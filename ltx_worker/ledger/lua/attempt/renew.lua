-- Renew an attempt's lease, or take it again if it lapsed and nobody else has claimed the job.
--
-- KEYS  state, lease, cancel, job.
-- ARGV  attempt, token; lease_ms: milliseconds that the lease lasts.
--
-- Guarantee: 'stale', with nothing changed, unless the attempt is the current one of a running job. Otherwise the
-- answer is 'cancel' or 'pause' if that was asked, else 'continue'.
-- include: attempt
local state, lease, cancel, job = unpack(KEYS)
local attempt, token, lease_ms = unpack(ARGV)

if not is_current(state, attempt, token) then return 'stale' end
if redis.call('HGET', state, 'status') ~= 'running' then return 'stale' end
redis.call('SET', lease, token, 'PX', lease_ms)
if redis.call('EXISTS', cancel) == 1 then return 'cancel' end
return redis.call('HEXISTS', job, 'held') == 1 and 'pause' or 'continue'
