-- Tell the farm's channel of a change: `ltx_client.protocol.changes` describes the messages.

-- Publish a message, after the writes that it tells of. By an older users.acl, users have no right to the channel: the
-- writes stand, and nobody is told.
local function tell(changes, message) redis.pcall('PUBLISH', changes, message) end
