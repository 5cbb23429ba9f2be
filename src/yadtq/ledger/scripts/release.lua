-- Give back claims that have not started (C1). KEYS: one task record each. ARGV: one fence each.
-- QUEUED again and the attempt given back; the fence stays raised, so the released attempt can write nothing.
for i, key in ipairs(KEYS) do
  local record = redis.call('HMGET', key, 'status', 'fence')
  if record[1] == 'PROCESSING' and record[2] == ARGV[i] then
    redis.call('HSET', key, 'status', 'QUEUED')
    redis.call('HDEL', key, 'token', 'worker', 'incarnation')
    redis.call('HINCRBY', key, 'attempts', -1)
  end
end
return #KEYS
