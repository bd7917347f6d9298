-- Find whether a batch has jobs, or may soon have some. `note_batch` and `drop_batch` include this.
--
-- KEYS  batch, batch_jobs, batches.
-- ARGV  id; job_prefix: what the keys of jobs begin with; just_noted: seconds after a batch was written, during which
--       its jobs may not have been submitted yet.
local batch, batch_jobs, batches = unpack(KEYS)
local id, job_prefix, just_noted = unpack(ARGV)

local function has_jobs()
  for _, job_id in ipairs(redis.call('ZRANGE', batch_jobs, 0, -1)) do
    if redis.call('EXISTS', job_prefix .. job_id) == 1 then return true end
  end
  return false
end
local now = seconds_now()
local noted_at = redis.call('HGET', batch, 'noted_at') or redis.call('HGET', batch, 'submitted_at')
local is_new = noted_at and tonumber(now) - (tonumber(noted_at) or 0) < tonumber(just_noted)
