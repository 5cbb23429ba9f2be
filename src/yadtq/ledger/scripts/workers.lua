-- Every worker with its status. KEYS: heartbeats. ARGV: allowed delay in ms (0: each worker's own lease), mark (0 or 1),
-- forget after so many ms. With mark the status is written too, and workers that were DEAD for long are dropped.
local FORGET, answers = tonumber(ARGV[3]), {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local name, raw, beat = all[i], all[i + 1], cjson.decode(all[i + 1])
  local age, allowed = now - beat.last_heartbeat_ms, tonumber(ARGV[1])
  if allowed == 0 then allowed = beat.lease_ms end
  local status = (beat.left or age > allowed) and 'DEAD' or 'ALIVE'
  if ARGV[2] == '1' and age > FORGET then
    redis.call('HDEL', KEYS[1], name)
  else
    if ARGV[2] == '1' and beat.status ~= status then
      redis.call('HSET', KEYS[1], name, (string.gsub(raw, '"status":"%u+"', '"status":"' .. status .. '"', 1)))
    end
    answers[#answers + 1] = {name, status, age, raw}
  end
end
return answers
