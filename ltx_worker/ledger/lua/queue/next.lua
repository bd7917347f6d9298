-- Find the job whose turn it is, and rotate the index of waiting submitters.
--
-- KEYS  turns, paused.
-- ARGV  of `lines`, then line_prefix: of the keys of the variant's lines; cancelled: a job that is taken first if its
--       cancel was asked, or ''; worker_field, queue_field: of the worker's pauses; leave: jobs to pass over.
--
-- Guarantee: the answer has a job's id, its line and entry, spec, snapshot or false, and links or false; or it is
-- empty; or it is 'paused' alone. The submitter's next turn comes after everybody else's; the job stays in its line,
-- behind the others, until it is claimed. Each entry of the index is checked against its job, and removed if it is
-- wrong.
-- include: turns, lines
local turns, paused = unpack(KEYS)
local line_prefix, cancelled, worker_field, queue_field = unpack(ARGV, 7, 10)
local leave = rest(ARGV, 11)

local pauses = read({}, 'HMGET', paused, worker_field, queue_field)
if pauses[1] or pauses[2] then return {'paused'} end
if cancelled ~= '' and redis.call('EXISTS', cancel_prefix .. cancelled) == 1 then
  local status = read('damaged', 'HGET', state_prefix .. cancelled, 'status') or 'queued'
  if status == 'queued' then return {cancelled, job_prefix .. cancelled, '', false, false, false} end
end
local left_out = {}
for _, id in ipairs(leave) do left_out[id] = true end

local at = 0
repeat
  local listed = page(turns, at, 'WITHSCORES')
  for i = 1, #listed, 2 do
    at = at + 1
    local turn = listed[i]
    local line = line_prefix .. turn
    local is_in_place = is_turn(turn, tonumber(listed[i + 1]))
    local found = is_in_place and first_in(line, turn, left_out)
    if not is_in_place then
      redis.call('ZREM', turns, turn)
      if redis.call('EXISTS', line) == 1 then give_turn(turns, turn) end
      at = at - 1
    elseif found then
      give_turn(turns, turn)
      local now, last = milliseconds_now(), redis.call('ZRANGE', line, 0, 0, 'REV', 'WITHSCORES')
      local behind = math.max(now, tonumber(last[2]) + 1)
      redis.call('ZADD', line, 'XX', string.format('%.0f', behind), found[3])
      return found
    elseif redis.call('EXISTS', line) == 0 then
      redis.call('ZREM', turns, turn)
      at = at - 1
    end
  end
until #listed < 2 * PAGE
return {}
