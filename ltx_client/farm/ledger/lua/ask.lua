-- Write a field of a job's record that asks for a change: a pause, or another priority.
--
-- KEYS  job, state, cancel; line_before: its present line; line_after: its next line; turns.
-- ARGV  field; value, or '' to remove the field; turn, entry; enters: '1' to put it into that line even if it is in
--       none; changes: a channel; asked: its message; ended: the final states.
--
-- Guarantee: returns the state at that moment, or 'missing'; a job that has ended is left as it is. A job that
-- waits is in one line afterwards, or in none while it is paused. The channel is told if the field has changed.
-- include: turns, changes
local job, state, cancel, line_before, line_after, turns = unpack(KEYS)
local field, value, turn, entry, enters, changes, asked = unpack(ARGV, 1, 7)
local ended = rest(ARGV, 8)

if redis.call('EXISTS', job) == 0 then return 'missing' end
local status = redis.call('HGET', state, 'status') or 'queued'
if contains(ended, status) then return status end
local has_changed = (redis.call('HGET', job, field) or '') ~= value
if value == '' then
  redis.call('HDEL', job, field)
else
  redis.call('HSET', job, field, value)
end
local waited = entry ~= '' and redis.pcall('ZREM', line_before, entry) == 1
if status == 'queued' and (waited or enters == '1') and redis.call('HEXISTS', job, 'held') == 0 then
  enter_line(line_after, turns, turn, entry, redis.call('HGET', job, 'submitted_at'))
end
redis.call('PUBLISH', cancel, '0')
if has_changed then tell(changes, asked) end
return status
