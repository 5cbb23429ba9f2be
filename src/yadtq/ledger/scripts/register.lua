-- R3: what a worker's present incarnation runs, written into a ledger that waits to be read in; starts the barrier.
-- KEYS: epoch, barrier. ARGV: one msgpack array (wire.py): key of a task without its id, topic, worker, incarnation, how
-- long a barrier is kept in ms; then the attempts. Answers the age of the barrier in ms, or -1 where the ledger is open.
local task_key, topic, worker, incarnation, kept_ms, attempts = unpack(cmsgpack.unpack(ARGV[1]))
if redis.call('EXISTS', KEYS[1]) == 1 then return -1 end
for _, attempt in ipairs(attempts) do
  local task_id, fence, task_type, partition, offset, queued_at_ms, starts, failures, deaths, generation, started_at_ms =
    unpack(attempt)
  local key = task_key .. task_id
  local record = redis.call('HMGET', key, 'status', 'fence')
  if record[1] ~= 'SUCCESS' and record[1] ~= 'FAILED' and before(record[2], fence) then
    redis.call('DEL', key)
    redis.call('HSET', key, 'task_type', task_type, 'source', source_of(topic, partition, offset),
      'queued_at_ms', queued_at_ms, 'attempts', starts, 'failures', failures, 'deaths', deaths,
      'generation', generation, 'status', 'PROCESSING', 'fence', fence, 'worker', worker, 'claim', incarnation .. '/',
      'started_at_ms', started_at_ms)
  end
end
redis.call('HSETNX', KEYS[2], 'since_ms', now)
redis.call('PEXPIRE', KEYS[2], kept_ms)
return now - tonumber(redis.call('HGET', KEYS[2], 'since_ms'))
