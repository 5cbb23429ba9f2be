-- Settle, step 1: accept verdicts by fence. KEYS: one task record each. ARGV, 6 values each:
--   fence, state, failed (0 or 1), died (0 or 1), result, error_log (an empty string stands for none)
-- Answers the time of acceptance, or 0 where the attempt is not the present one: then it writes nothing (S2).
local WIDTH, time = 6, redis.call('TIME')
local now, answers = time[1] * 1000 + math.floor(time[2] / 1000), {}
for i, key in ipairs(KEYS) do
  local at = (i - 1) * WIDTH
  local fence, state, failed, died = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local result, error_log = ARGV[at + 5], ARGV[at + 6]
  local record = redis.call('HMGET', key, 'status', 'fence', 'accepted', 'finished_at_ms')
  if record[2] ~= fence then
    answers[i] = 0
  elseif record[3] == fence then
    answers[i] = tonumber(record[4] or now)                           -- accepted before, and the answer was lost
  elseif record[1] ~= 'PROCESSING' then
    answers[i] = 0                                                    -- released: nothing of it can have run
  else
    redis.call('HSET', key, 'status', state, 'accepted', fence)
    redis.call('HDEL', key, 'token', 'result', 'error_log')
    if state ~= 'QUEUED' then redis.call('HSET', key, 'finished_at_ms', now) end
    if failed == '1' then redis.call('HINCRBY', key, 'failures', 1) end
    if died == '1' then redis.call('HINCRBY', key, 'deaths', 1) end
    if result ~= '' then redis.call('HSET', key, 'result', result) end
    if error_log ~= '' then redis.call('HSET', key, 'error_log', error_log) end
    answers[i] = now
  end
end
return answers
