-- Update the index of who waits: `ltx_client.protocol.fair_turns` describes its keys.
--
-- line, turns: keys.  turn: `PRIORITY:SUBMITTER`.  entry: `MEMORY_CLASS:JOB`.  score: milliseconds.
local ROUND = 1e12

-- Return whether this is a turn with a score of its priority: whoever may submit may write anything.
local function is_turn(turn, score)
  local priority = tonumber(string.match(turn, '^(%d):'))
  return priority and score >= priority * ROUND and score < (priority + 1) * ROUND
end

-- Put a turn behind all others of its priority.
local function give_turn(turns, turn)
  local priority = tonumber(string.match(turn, '^(%d):'))
  if not priority then return end
  local first, last = string.format('%.0f', priority * ROUND), string.format('%.0f', (priority + 1) * ROUND - 1)
  local newest = redis.call('ZRANGE', turns, last, first, 'BYSCORE', 'REV', 'LIMIT', 0, 1, 'WITHSCORES')
  local score = tonumber(newest[2] or first) + 1
  if score > tonumber(last) then  -- all numbers are used up: the others are numbered again, in the same order
    score = tonumber(first)
    for _, other in ipairs(redis.call('ZRANGE', turns, first, last, 'BYSCORE')) do
      score = score + 1
      redis.call('ZADD', turns, string.format('%.0f', score), other)
    end
    score = score + 1
  end
  redis.call('ZADD', turns, string.format('%.0f', score), turn)
end

-- Put a job into its submitter's line. The reaper repairs keys of another type.
local function enter_line(line, turns, turn, entry, score)
  local entered, known = redis.pcall('ZADD', line, score, entry), redis.pcall('ZSCORE', turns, turn)
  if type(entered) == 'number' and not known then give_turn(turns, turn) end
end
