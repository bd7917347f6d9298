-- Keep a job while somebody downloads its video.
--
-- KEYS  job, readers.
-- ARGV  token: of the download; ttl: seconds that it keeps the job where it is killed.
--
-- Guarantee: answers 1 and `forget` leaves the job until the token is removed; 0, and nothing was written, for no job.
local job, readers = unpack(KEYS)
local token, ttl = unpack(ARGV)

if redis.call('EXISTS', job) == 0 then return 0 end
if redis.call('TYPE', readers).ok ~= 'hash' then redis.call('DEL', readers) end
redis.call('HSET', readers, token, '1')
redis.call('EXPIRE', readers, ttl)
return 1
