-- Shared by the scripts that ask whether a worker is alive. The heartbeat is the lease: there is no other.
-- A worker is alive while its present incarnation's last beat is no older than the lease it promised, by this clock.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local now_ms = string.format('%.0f', now)                             -- the same as text, to write: a number is printed anew by each command
local beats = {}

local function beat_of(heartbeats, name)
  if beats[name] == nil then
    local raw = redis.call('HGET', heartbeats, name)
    beats[name] = raw and cjson.decode(raw) or false
  end
  return beats[name]
end

local function alive(heartbeats, name, incarnation)
  local beat = beat_of(heartbeats, name)
  return beat and beat.incarnation == incarnation and not beat.left
    and now - beat.last_heartbeat_ms <= beat.lease_ms
end
