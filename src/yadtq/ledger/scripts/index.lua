-- Shared by the scripts of the due index, behind lease.lua, which has the clock.

-- The next offset to read; 0 where there is no index. One of which a part is missing (an eviction) is no index.
local function position(due, waiting)
  local upto = redis.call('HGET', waiting, 'upto')
  if upto and redis.call('HLEN', waiting) == redis.call('ZCARD', due) + 1 then return tonumber(upto) end
  redis.call('DEL', due, waiting)
  return 0
end

-- How long the entry at this place of the order has still to wait; -1 where there is none.
local function wait_ms(due, place)
  local next = redis.call('ZRANGE', due, place, place, 'WITHSCORES')
  return next[2] and math.max(tonumber(next[2]) - now, 0) or -1
end

-- Where an entry lies in its partition of `Q.delayed`; nothing where there is none. An entry is its offset, a colon, and
-- bytes that only the client reads (redis_due.py).
local function offset_of(entry) return entry and tonumber(string.match(entry, '^%d+')) end
