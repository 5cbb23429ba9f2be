-- R3: outcomes that Kafka has, as records. KEYS: lock. ARGV: one msgpack array (wire.py): token of the lock, how long it
-- is kept in ms, key of a task without its id, time to live of a sealed record in s, whether only absent records are
-- written (C8); then the outcomes, an array each, in the order of their partition. Answers how many were written, or -1.
-- An end is written for what is left of its life, and not at all where nothing is. One with 0 for its time has its whole
-- life before it: behind the end of what was retried, a repeated record of that retry may stand.
-- The lock notes when the first of them goes: so long an absent record says that its task has not ended.
local token, lock_ms, task_key, ttl_s, absent_only, outcomes = unpack(cmsgpack.unpack(ARGV[1]))
if redis.call('HGET', KEYS[1], 'token') ~= token then return -1 end
redis.call('PEXPIRE', KEYS[1], lock_ms)
redis.call('HINCRBY', KEYS[1], 'batches', 1)
local written, whole = 0, now + ttl_s * 1000
local least = tonumber(redis.call('HGET', KEYS[1], 'least_ms') or whole)
for _, outcome in ipairs(outcomes) do
  local task_id, final, fence, finished_at_ms, fields = unpack(outcome)
  local key = task_key .. task_id
  local record = redis.call('HMGET', key, 'status', 'fence', 'sealed')
  local ended = record[1] == 'SUCCESS' or record[1] == 'FAILED'
  local counts
  if absent_only then counts = final and not record[1]
  elseif final then counts = not record[3] or (numbers_of(record[2])) < (numbers_of(fence))  -- S4: the first of the newest life
  else counts = not ended and not before(fence, record[2]) end
  if counts then
    local expires = whole
    if finished_at_ms > 0 and not absent_only then expires = math.min(finished_at_ms + ttl_s * 1000, whole) end
    redis.call('DEL', key)
    if not final or expires > now then
      redis.call('HSET', key, unpack(fields))
      if final then redis.call('PEXPIREAT', key, string.format('%.0f', expires)) end
      written = written + 1
    end
    if final then least = math.min(least, expires) end
  elseif final and record[3] then
    if absent_only then redis.call('EXPIRE', key, ttl_s) end
    least = math.min(least, now + redis.call('PTTL', key))
  end
end
redis.call('HSET', KEYS[1], 'least_ms', string.format('%.0f', least))
return written
