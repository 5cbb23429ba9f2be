-- Settle, step 3: Kafka has the outcome. KEYS: one task record each. ARGV: TTL in seconds, then one fence each.
-- Only a sealed record is shown as final, and only a sealed record expires (R1). Answers 1, or 0 where refused (S2).
local answers = {}
for i, key in ipairs(KEYS) do
  local record = redis.call('HMGET', key, 'status', 'fence')
  if record[2] == ARGV[i + 1] and (record[1] == 'SUCCESS' or record[1] == 'FAILED') then
    redis.call('HSET', key, 'sealed', 1)
    redis.call('EXPIRE', key, ARGV[1])
    answers[i] = 1
  else
    answers[i] = 0
  end
end
return answers
