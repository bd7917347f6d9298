-- Remove the workers whose records have expired from the farm's list.
--
-- KEYS  workers; records: of workers.
-- ARGV  changes: a channel; lapsed: for each record the worker's id, then the channel's message.
--
-- Guarantee: a worker that has a record is not touched. The channel is told of each that is removed, by one of any
-- number of concurrent calls.
-- include: changes
local workers = KEYS[1]
local records = rest(KEYS, 2)
local changes = ARGV[1]
local lapsed = rest(ARGV, 2)

for i, record in ipairs(records) do
  if not read('damaged', 'HGET', record, 'id') and redis.call('ZREM', workers, lapsed[2 * i - 1]) == 1 then
    tell(changes, lapsed[2 * i])
  end
end
