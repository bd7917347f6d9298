-- Keep a job while somebody downloads its video.
--
-- KEYS  job, readers.
-- ARGV  token: of the download; ttl: seconds for which a killed download keeps the job.
--
-- Guarantee: returns 1, and `forget` leaves the job until the token is removed; or 0, with nothing written, if the job
-- does not exist.
local job, readers = unpack(KEYS)
local token, ttl = unpack(ARGV)

if redis.call('EXISTS', job) == 0 then return 0 end
if redis.call('TYPE', readers).ok ~= 'hash' then redis.call('DEL', readers) end
redis.call('HSET', readers, token, '1')
redis.call('EXPIRE', readers, ttl)
return 1
