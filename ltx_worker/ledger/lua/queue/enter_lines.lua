-- Put waiting jobs of one submitter and priority into their line.
--
-- KEYS  line, turns.
-- ARGV  turn; job_prefix: of the keys of jobs; entries.
--
-- Guarantee: a job that is in the line keeps its place, and the submitter has a turn. Keys of another type are
-- replaced.
-- include: turns
local line, turns = unpack(KEYS)
local turn, job_prefix = unpack(ARGV, 1, 2)
local entries = rest(ARGV, 3)

for _, key in ipairs({line, turns}) do
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'zset' and kind ~= 'none' then redis.call('DEL', key) end
end
for _, entry in ipairs(entries) do
  if not redis.call('ZSCORE', line, entry) then
    local job = job_prefix .. string.match(entry, ':(.+)$')
    enter_line(line, turns, turn, entry, redis.call('HGET', job, 'submitted_at') or 0)
  end
end
if not redis.call('ZSCORE', turns, turn) then give_turn(turns, turn) end
