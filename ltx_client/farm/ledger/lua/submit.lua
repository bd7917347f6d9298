-- Write a job's record; that write is the submission.
--
-- KEYS  job, jobs, line, turns; batch_jobs, or job again for a job of no batch; others: all other keys that a job's id
--       may have, then those of the job's inputs.
-- ARGV  leftover_count: how many of `others` come first; id, spec; links: JSON or ''; item: in the batch, or ''; turn,
--       entry; waits: '1' if it depends on other jobs; dry: '1' to write nothing; wanted_ttl: seconds for which the
--       inputs are kept; lead: milliseconds by which the newest job may be ahead of the clock; changes: a channel;
--       submitted: its message; not_on: the fields that exclude workers.
--
-- Guarantee: the same job again changes nothing and returns 'exists'; another job with its id changes nothing and
-- returns 'conflict', or 'used' if that one is gone. No two jobs have the same time of submission. The channel is told
-- of a job once.
-- include: turns, changes
local job, jobs, line, turns, batch_jobs = unpack(KEYS, 1, 5)
local others = rest(KEYS, 6)
local leftover_count, id, spec, links, item, turn, entry = unpack(ARGV, 1, 7)
local waits, dry, wanted_ttl, lead, changes, submitted = unpack(ARGV, 8, 13)
local not_on = rest(ARGV, 14)

local known = redis.call('HGET', job, 'spec')
if known then return known == spec and 'exists' or 'conflict' end
if redis.call('EXISTS', unpack(others, 1, tonumber(leftover_count))) > 0 then return 'used' end
local inputs = rest(others, leftover_count + 1)
for _, input in ipairs(inputs) do
  if redis.pcall('GET', input) ~= 'wanted' then return 'not wanted' end
end
if dry == '1' then return 'created' end
for _, input in ipairs(inputs) do redis.call('SET', input, 'wanted', 'EX', wanted_ttl) end
local moment = milliseconds_now()
local newest = tonumber(redis.call('ZRANGE', jobs, 0, 0, 'REV', 'WITHSCORES')[2] or 0)
if newest >= moment and newest < moment + lead then moment = newest + 1 end
local submitted_at = string.format('%.0f', moment)
-- The lists first: one that is damaged is noticed before there is a record.
if item ~= '' then redis.call('ZADD', batch_jobs, item, id) end
redis.call('ZADD', jobs, submitted_at, id)
redis.call('HSET', job, 'spec', spec, 'submitted_at', submitted_at)
if links ~= '' then redis.call('HSET', job, 'links', links) end
for _, field in ipairs(not_on) do redis.call('HSET', job, field, '1') end
if waits ~= '1' then enter_line(line, turns, turn, entry, submitted_at) end
tell(changes, submitted)
return waits == '1' and 'waits' or 'created'
