-- The clean end of an incarnation: DEAD at once, so its claims can be taken over without waiting for the lease.
-- KEYS: heartbeats. ARGV: name, incarnation.
local raw, beat = redis.call('HGET', KEYS[1], ARGV[1]), beat_of(KEYS[1], ARGV[1])
if beat and beat.incarnation == ARGV[2] then
  raw = string.gsub(raw, '"status":"%u+","left":false', '"status":"DEAD","left":true', 1)
  redis.call('HSET', KEYS[1], ARGV[1], raw)
end
return 1
