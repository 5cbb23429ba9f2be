-- Write one heartbeat, if it may be written. KEYS: heartbeats.
-- ARGV: name, incarnation, first (0 or 1), the incarnation it replaces or '', lease_ms, facts as JSON.
local name, incarnation, first, replaces = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local old = beat_of(KEYS[1], name)
if old and first == '0' and old.incarnation ~= incarnation then
  if old.incarnation ~= replaces then return 'SUPERSEDED' end
elseif old and first == '0' and not alive(KEYS[1], name, incarnation) then
  return 'DEAD'                                                       -- C6: a new incarnation first
end
-- Put together as text: decoding and encoding would turn an empty list into an object.
local beat = string.format('{"status":"ALIVE","left":false,"incarnation":%s,"last_heartbeat_ms":%.0f,"lease_ms":%d,',
  cjson.encode(incarnation), now, ARGV[5])
redis.call('HSET', KEYS[1], name, beat .. string.sub(ARGV[6], 2))
return 'ALIVE'
