-- Define what several scripts use. Precedes every script.

-- Return the values of KEYS or ARGV from number `first` on.
local function rest(values, first)
  local found = {}
  for i = first, #values do found[#found + 1] = values[i] end
  return found
end

-- Return whether `values` contains `value`.
local function contains(values, value)
  for _, one in ipairs(values) do
    if one == value then return true end
  end
  return false
end

-- Return a key's value as `command` reads it, or `damaged` if the key has a value of another type.
local function read(damaged, command, ...)
  local reply = redis.pcall(command, ...)
  if type(reply) ~= 'table' or not reply.err then return reply end
  if string.find(tostring(reply.err), 'WRONGTYPE', 1, true) then return damaged end
  error(reply.err)
end

-- Return the server's clock in seconds since 1970, as text that keeps the microseconds.
local function seconds_now()
  local now = redis.call('TIME')
  return now[1] .. '.' .. string.format('%06d', now[2])
end

-- Return the server's clock in whole milliseconds since 1970.
local function milliseconds_now()
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end
