-- Give a job back in place of an owner that is gone, or end one without an owner whose cancel was asked.
--
-- KEYS  of `give_back`.
-- ARGV  of `give_back`, then attempt: the number that was read.
--
-- Guarantee: 'left', with nothing changed, for a job that has an owner, has changed since it was read, or needs
-- nothing. Of any number of concurrent calls, one has an effect.
-- include: give_back
local attempt = ARGV[19]

local held = redis.call('HMGET', state, 'status', 'attempt', 'seq')
local status, known_attempt, known_seq = held[1] or 'queued', tonumber(held[2] or 0), tonumber(held[3] or 0)
if redis.call('EXISTS', job) == 0 or is_leased(lease) then return 'left' end
if tonumber(attempt) ~= known_attempt or tonumber(seq) ~= known_seq + 1 then return 'left' end
if status == 'running' then return give_back() end
if status == 'queued' and redis.call('EXISTS', cancel) == 1 then return give_back() end
return 'left'
