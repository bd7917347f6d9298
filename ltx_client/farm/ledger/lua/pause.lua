-- Write or remove an operator's pause of a worker or a queue.
--
-- KEYS  paused.
-- ARGV  field; value: the pause, as JSON, or '' to remove it; changes: a channel; asked: its message.
--
-- Guarantee: returns 1 if there was such a pause, else 0. The channel is told, except of the removal of nothing.
-- include: changes
local paused = KEYS[1]
local field, value, changes, asked = unpack(ARGV)

local there
if value == '' then
  there = redis.call('HDEL', paused, field)
else
  there = 1 - redis.call('HSET', paused, field, value)
end
if there == 1 or value ~= '' then tell(changes, asked) end
return there
