-- Make an attempt the owner of a job.
--
-- KEYS  job, state, lease, cancel, events, preview, latents; line: in which the job waits, or again the key `job`.
-- ARGV  attempt, token, seq; lease_ms: milliseconds that the lease lasts; claimed, claimed_snapshot, cancelled,
--       cancelled_snapshot: events and the snapshots after them; ttl, preview_ttl: seconds until a job that is ended
--       here, and its preview, expire; paused: a key; worker_field, queue_field: its fields for this worker; entry: in
--       the line, or ''; shown: characters of a token that file names show; remembered: characters that are kept of all
--       tokens; changes: a channel; claimed_change, cancelled_change: its messages; claimable: the states from which a
--       job may be claimed.
--
-- Guarantee: of any number of concurrent claims, one is granted; sent again, it answers 'mine'. A refusal changes
-- nothing: 'gone', 'ended', 'leased', 'raced' if attempt and seq do not follow the stored ones, 'held' for a paused
-- job, 'paused' for a paused worker or queue. A job whose cancel was asked is ended, with the answer 'cancelled'. The
-- channel is told of a new status once.
-- include: attempt, changes
local job, state, lease, cancel, events, preview, latents, line = unpack(KEYS)
local attempt, token, seq, lease_ms, claimed, claimed_snapshot, cancelled, cancelled_snapshot = unpack(ARGV, 1, 8)
local ttl, preview_ttl, paused, worker_field, queue_field, entry, shown, remembered = unpack(ARGV, 9, 16)
local changes, claimed_change, cancelled_change = unpack(ARGV, 17, 19)
local claimable = rest(ARGV, 20)

if redis.call('EXISTS', job) == 0 then return 'gone' end
local held = redis.call('HMGET', state, 'status', 'attempt', 'token', 'seq')
local status, known_attempt, known_seq = held[1] or 'queued', tonumber(held[2] or 0), tonumber(held[4] or 0)
if held[3] == token then
  if status == 'cancelled' then return 'cancelled' end
  return 'mine'
end
if not contains(claimable, status) then return 'ended' end
if is_leased(lease) then return 'leased' end
if tonumber(attempt) ~= known_attempt + 1 or tonumber(seq) ~= known_seq + 1 then return 'raced' end
if redis.call('EXISTS', cancel) == 1 then
  record(state, events, seq, cancelled, cancelled_snapshot)
  redis.call('HSET', state, 'status', 'cancelled', 'attempt', known_attempt, 'token', token)
  redis.call('DEL', latents)
  expire(ttl, {job, state, cancel, events})
  expire(preview_ttl, {preview})
  tell(changes, cancelled_change)
  return 'cancelled'
end
if redis.call('HEXISTS', job, 'held') == 1 then return 'held' end
local pauses = read({}, 'HMGET', paused, worker_field, queue_field)
if pauses[1] or pauses[2] then return 'paused' end
record(state, events, seq, claimed, claimed_snapshot)
local tokens = string.sub(token, 1, shown) .. ' ' .. (redis.call('HGET', state, 'tokens') or '')
tokens = string.sub(tokens, 1, remembered)
redis.call('HSET', state, 'status', 'running', 'attempt', attempt, 'token', token, 'tokens', tokens)
redis.call('SET', lease, token, 'PX', lease_ms)
redis.call('DEL', preview)
if entry ~= '' then read(0, 'ZREM', line, entry) end
tell(changes, claimed_change)
return 'claimed'
