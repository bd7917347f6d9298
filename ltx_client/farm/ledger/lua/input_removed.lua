-- End the removal of an input.
--
-- KEYS  input.
-- ARGV  token: of the removal.
--
-- Guarantee: what another removal, or somebody who wants the input, has written since is kept.
local input = KEYS[1]
local token = ARGV[1]

if redis.call('GET', input) == token then redis.call('DEL', input) end
return 1
