-- R3: outcomes that Kafka has, as records. KEYS: lock. ARGV: one msgpack array (wire.py): token of the lock, how long it
-- is kept in ms, key of a task without its id, time to live of a sealed record in s, whether only absent records are
-- written (C8); then the outcomes, an array each, in the order of their partition. Answers how many were written, or -1.
local token, lock_ms, task_key, ttl_s, absent_only, outcomes = unpack(cmsgpack.unpack(ARGV[1]))
if redis.call('HGET', KEYS[1], 'token') ~= token then return -1 end
redis.call('PEXPIRE', KEYS[1], lock_ms)
redis.call('HINCRBY', KEYS[1], 'batches', 1)
local written = 0
for _, outcome in ipairs(outcomes) do
  local task_id, final, fence, fields = unpack(outcome)
  local key = task_key .. task_id
  local record = redis.call('HMGET', key, 'status', 'fence', 'sealed')
  local ended = record[1] == 'SUCCESS' or record[1] == 'FAILED'
  local counts
  if absent_only then counts = final and not record[1]
  elseif final then counts = not record[3] or (numbers_of(record[2])) < (numbers_of(fence))  -- S4: the first of the newest life
  else counts = not ended and not before(fence, record[2]) end
  if counts then
    redis.call('DEL', key)
    redis.call('HSET', key, unpack(fields))
    if final then redis.call('EXPIRE', key, ttl_s) end
    written = written + 1
  end
end
return written
