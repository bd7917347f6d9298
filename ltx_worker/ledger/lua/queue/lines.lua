-- Find the first job of a line that a worker may take, for `next`.
--
-- KEYS  none.
-- ARGV  job_prefix, state_prefix, cancel_prefix: of these keys; classes: the worker's memory classes, with a colon
--       before and after each; not_on_id, not_on_name: the fields that keep a job from this worker.
local job_prefix, state_prefix, cancel_prefix, classes, not_on_id, not_on_name = unpack(ARGV, 1, 6)
local PAGE = 50

-- Return a page of an index; remove a key that is no index, which the reaper makes again.
local function page(key, offset, ...)
  local found = read('damaged', 'ZRANGE', key, offset, offset + PAGE - 1, ...)
  if found ~= 'damaged' then return found end
  redis.call('DEL', key)
  return {}
end

-- Return 'take' with the job's spec, snapshot and links; 'leave' for other workers; or 'drop' from this line.
local function judge(id, priority)
  local about = read({}, 'HMGET', job_prefix .. id, not_on_id, not_on_name)
  if about[1] or about[2] then return redis.call('EXISTS', cancel_prefix .. id) == 1 and 'drop' or 'leave' end
  local job = read({}, 'HMGET', job_prefix .. id, 'spec', 'held', 'priority', 'links')
  if not job[1] or job[2] then return 'drop' end
  local state = read({'damaged'}, 'HMGET', state_prefix .. id, 'status', 'attempt', 'snapshot')
  if (state[1] or 'queued') ~= 'queued' or redis.call('EXISTS', cancel_prefix .. id) == 1 then return 'drop' end
  if (tonumber(state[2] or 0) or 0) > 0 then
    if priority ~= '0' then return 'drop' end
  elseif job[3] and job[3] ~= priority then
    return 'drop'
  end
  return 'take', job[1], state[3], job[4]
end

-- Return what the script answers for the first job of a line that may be taken, or nil.
local function first_in(line, turn, leave)
  local at = 0
  repeat
    local entries = page(line, at)
    for _, entry in ipairs(entries) do
      local class, id = string.match(entry, '^(%d+):(.+)$')
      at = at + 1
      if not class then
        redis.call('ZREM', line, entry)
        at = at - 1
      elseif string.find(classes, ':' .. class .. ':', 1, true) and not leave[id] then
        local answer, spec, snapshot, links = judge(id, string.sub(turn, 1, 1))
        if answer == 'take' then return {id, line, entry, spec, snapshot, links} end
        if answer == 'drop' then
          redis.call('ZREM', line, entry)
          at = at - 1
        end
      end
    end
  until #entries < PAGE
  return nil
end
