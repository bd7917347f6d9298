-- Write one event of a running attempt.
--
-- KEYS  state, events, cancel, preview.
-- ARGV  attempt, token, seq, event, snapshot; furthest: the field of how many steps of its stage are done, or '';
--       done: how many are now, 0 in a stage that counts none; jpeg: the preview, or ''.
--
-- Guarantee: an event is written once, under the number after the last one. A refusal changes nothing: 'gap' if an
-- event before this one is missing, 'stale' unless the attempt is the current one of a running job. Otherwise the
-- answer is 'cancel' if that was asked, else 'continue'. A stage, or a step of it, that no attempt had reached before
-- clears all strikes.
-- include: attempt
local state, events, cancel, preview = unpack(KEYS)
local attempt, token, seq, event, snapshot, furthest, done, jpeg = unpack(ARGV)

if not is_current(state, attempt, token) then return 'stale' end
local held = redis.call('HMGET', state, 'status', 'seq')
if held[1] ~= 'running' then return 'stale' end
if tonumber(seq) == tonumber(held[2]) + 1 then
  record(state, events, seq, event, snapshot)
  if jpeg ~= '' then redis.call('SET', preview, jpeg) end
  if furthest ~= '' and tonumber(done) > tonumber(redis.call('HGET', state, furthest) or -1) then
    redis.call('HSET', state, furthest, done, 'mishaps', 0, 'not_finite', 0, 'not_finite_by', '')
    redis.call('HSET', state, 'host_faults', 0, 'deaths', 0, 'lapses', 0)
  end
elseif tonumber(seq) > tonumber(held[2]) then
  return 'gap'
end
return redis.call('EXISTS', cancel) == 1 and 'cancel' or 'continue'
