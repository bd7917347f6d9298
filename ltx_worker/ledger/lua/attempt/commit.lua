-- End a job.
--
-- KEYS  job, state, lease, cancel, events, preview, result, latents.
-- ARGV  attempt, token, seq; status: of the ended job; event, snapshot; ttl, preview_ttl: seconds until the job and its
--       preview expire; files: of the result, as JSON, or ''; changes: a channel; change: its message.
--
-- Guarantee: one result a job; sent again, it answers 'committed' and changes nothing. A refusal changes nothing:
-- 'stale' unless the attempt is the current one of a running job; 'cancel' for a result after a cancel was asked; 'gap'
-- if an event before this one is missing. The channel is told of the end once.
-- include: attempt, changes
local job, state, lease, cancel, events, preview, result, latents = unpack(KEYS)
local attempt, token, seq, status, event, snapshot, ttl, preview_ttl, files, changes, change = unpack(ARGV)

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
tell(changes, change)
return 'committed'
