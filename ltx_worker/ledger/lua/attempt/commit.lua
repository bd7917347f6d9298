-- End a job.
--
-- KEYS  job, state, lease, cancel, events, preview, result, latents.
-- ARGV  attempt, token, seq; status: the one that it ends with; event, snapshot; ttl, preview_ttl: seconds that the job
--       and its preview live from now on; files: of the result, as JSON, or ''.
--
-- Guarantee: one result a job; sent again, it answers 'committed' and changes nothing. Refuses with nothing changed:
-- 'stale' unless the attempt is the current one of a running job; 'cancel' for a result after a cancel was asked; 'gap'
-- where an event is missing before this one.
-- include: attempt
local job, state, lease, cancel, events, preview, result, latents = unpack(KEYS)
local attempt, token, seq, status, event, snapshot, ttl, preview_ttl, files = unpack(ARGV)

if not is_current(state, attempt, token) then return 'stale' end
local held = redis.call('HMGET', state, 'status', 'seq')
if held[1] == status then return 'committed' end
if held[1] ~= 'running' then return 'stale' end
if status == 'done' and redis.call('EXISTS', cancel) == 1 then return 'cancel' end
if tonumber(seq) ~= tonumber(held[2]) + 1 then return 'gap' end
if files ~= '' then
  redis.call('HSET', result, 'attempt', attempt, 'files', files)
end
record(state, events, seq, event, snapshot)
redis.call('HSET', state, 'status', status)
redis.call('DEL', lease, latents)
expire(ttl, {job, state, cancel, events, result})
expire(preview_ttl, {preview})
return 'committed'
