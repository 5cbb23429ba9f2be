-- What is due in a partition by this clock. KEYS: epoch, due (sorted set), waiting (hash).
-- ARGV: one msgpack array (redis_due.py): key of a task without its id, expected position, how many, how many bytes.
-- Answers the position, ms until the next entry that is not among these (-1: there is none), then of each its key and
-- what the index holds of it, its offset and its bytes; no bytes where it is not to be fired.
local task_key, expected, most, most_bytes = unpack(cmsgpack.unpack(ARGV[1]))
if redis.call('EXISTS', KEYS[1]) == 0 then return 'WAIT' end           -- R2
local present = position(KEYS[2], KEYS[3])
if present ~= expected then return {present} end
local answer, bytes, count = {present, -1}, 0, 0
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, most)) do
  local generation, task_id = string.match(member, '^(%d+):(.*)$')
  local record = redis.call('HMGET', task_key .. task_id, 'sealed', 'generation')
  -- T1: only what is sealed or has passed is over; whatever else its record says, firing it does no harm
  local over = record[1] or tonumber(record[2] or 0) > tonumber(generation)
  local entry = redis.call('HGET', KEYS[3], member)
  if over then entry = string.match(entry, '^%d+:') end
  if count > 0 and bytes + #entry > most_bytes then break end
  answer[#answer + 1] = member
  answer[#answer + 1] = entry
  bytes, count = bytes + #entry, count + 1
end
answer[2] = wait_ms(KEYS[2], count)
return answer
