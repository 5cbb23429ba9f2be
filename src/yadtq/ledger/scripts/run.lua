-- The runs of the original command lines. KEYS: runs.
-- ARGV: what (beat, close or list), TTL in s, a producer's lease in ms; beat: topic, producer, ended, left, known run; close: topic, number.
local what, lease = ARGV[1], tonumber(ARGV[3])

local function load(topic)
  local raw = redis.call('HGET', KEYS[1], topic)
  return raw and cjson.decode(raw) or {number = 0, ended = true, producers = {}}
end

local function answer(run)
  -- A producer that was killed does not hold up the end; one that gave `end` counts for ever.
  local ending, waiting = false, false
  for _, producer in pairs(run.producers) do
    if producer.ended then ending = true
    elseif now - producer.beat_ms <= lease then waiting = true end
  end
  return {run.number, run.ended and 1 or 0, (ending and not waiting) and 1 or 0}
end

local function save(topic, run)
  redis.call('HSET', KEYS[1], topic, cjson.encode(run))
  redis.call('EXPIRE', KEYS[1], ARGV[2])
end

if what == 'list' then
  local answers, all = {}, redis.call('HGETALL', KEYS[1])
  for i = 1, #all, 2 do answers[#answers + 1] = {all[i], answer(cjson.decode(all[i + 1]))} end
  return answers
end
local topic, run = ARGV[4], load(ARGV[4])
if what == 'close' then
  if run.number == tonumber(ARGV[5]) and not run.ended then
    run.ended = true
    save(topic, run)
  end
  return answer(run)
end
local producer, ended, left = ARGV[5], ARGV[6] == '1', ARGV[7] == '1'
local known = tonumber(ARGV[8])
if run.number < known then                                            -- a wipe took the run from under its producers
  run = {number = known, ended = false, producers = {}}
end
if run.ended and not ended and not left then
  run = {number = run.number + 1, ended = false, producers = {}}
end
if left then
  run.producers[producer] = nil
elseif not run.ended then
  run.producers[producer] = {beat_ms = now, ended = ended}
end
save(topic, run)
return answer(run)
