-- Take entries into a partition's due index and out of it, and move its position with them: one atomic move.
-- May run twice: the second time the position is another one, and nothing is done.
-- KEYS: epoch, due (sorted set), waiting (hash), read mark of the queue.
-- ARGV: one msgpack array (redis_due.py): key of a task without its id, expected position, new position, age in ms from
-- which an absent record is no free pass, entries to take in (an array each), keys to take out; then offset and bytes
-- of each entry, an argument each: the server's msgpack knows no type for bytes.
local task_key, expected, upto, oldest_ms, entries, over = unpack(cmsgpack.unpack(ARGV[1]))
if redis.call('EXISTS', KEYS[1]) == 0 then return 'WAIT' end           -- R2
local present = position(KEYS[2], KEYS[3])
if present ~= expected then return {present} end
for _, key in ipairs(over) do
  redis.call('ZREM', KEYS[2], key)
  redis.call('HDEL', KEYS[3], key)
  -- T2: with its tombstone here, its envelope is in Q. Not where a retry may not be in Kafka yet (C4): its seal asks for
  -- SCHEDULED. An accept of that retry that comes again is refused: the claim knows more.
  local generation, task_id = string.match(key, '^(%d+):(.*)$')
  local record = generation and redis.call('HMGET', task_key .. task_id, 'status', 'generation', 'resend')
  if record and record[1] == 'SCHEDULED' and not record[3] and tonumber(record[2] or 0) == tonumber(generation) then
    redis.call('HSET', task_key .. task_id, 'status', 'QUEUED')
  end
end
local read = redis.call('EXISTS', KEYS[4]) == 1
for i, entry in ipairs(entries) do
  local member, due_ms, generation, task_id, task_type, topic, partition, offset, queued_at_ms, tries = unpack(entry)
  redis.call('ZADD', KEYS[2], due_ms, member)
  redis.call('HSET', KEYS[3], member, ARGV[i + 1])
  local key = task_key .. task_id
  -- C8: one that may have ended and been forgotten stays absent, so that its claim asks for the outcomes first
  if (read or now - queued_at_ms <= oldest_ms) and redis.call('EXISTS', key) == 0 then
    redis.call('HSET', key, 'status', 'SCHEDULED', 'task_type', task_type,
      'source', source_of(topic, partition, offset), 'queued_at_ms', queued_at_ms, 'attempts', tries,
      'generation', generation, 'not_before_ms', due_ms)
  end
end
redis.call('HSET', KEYS[3], 'upto', string.format('%.0f', upto))
return {upto, wait_ms(KEYS[2], 0)}
