-- Seals and releases of many tasks of one queue. May write when Redis is full: a record that is not sealed never expires
-- and makes no room. KEYS: epoch, writes and barrier of the queue. ARGV: one msgpack array (wire.py): epoch and number of
-- its calls that the worker has seen, worker, key of a task without its id, time to live of a sealed record in s, channel of
-- announcements; then seals and releases, an array each.
local seen_epoch, seen_writes, worker, task_key, ttl_s, channel, seals, releases = unpack(cmsgpack.unpack(ARGV[1]))
local epoch, writes = life(KEYS[1], KEYS[2], KEYS[3], worker, seen_epoch, seen_writes)
if not epoch then return 'WAIT' end                                   -- R2

-- Settle, step 3: Kafka has the outcome. Only a sealed record is shown as final, and only a sealed record expires (R1).
-- Of a retry: Kafka has its envelope. Answers true, or false where the attempt is not the present one (S2), or where its
-- outcome was written under an epoch that is over and was not read in: it may stand behind the marker (R4).
local function read_in(key, status)
  local record = redis.call('HMGET', key, 'sealed', 'resend')
  return (record[1] or (status == 'SCHEDULED' and not record[2])) and true or false
end

local prefix, ttl, sealed, final = epoch .. '.', tostring(ttl_s), {}, {}
for i, s in ipairs(seals) do
  local task_id, fence = s[1], s[2]
  local key = task_key .. task_id
  local record = redis.call('HMGET', key, 'status', 'fence')
  sealed[i] = record[2] == fence and (is_of(fence, prefix) or read_in(key, record[1]))
  if sealed[i] and (record[1] == 'SUCCESS' or record[1] == 'FAILED') then
    redis.call('HSET', key, 'sealed', '1')
    redis.call('EXPIRE', key, ttl)
    final[#final + 1] = task_id
  elseif sealed[i] and record[1] == 'SCHEDULED' then
    redis.call('HDEL', key, 'resend')
  else
    sealed[i] = false
  end
end
if #final > 0 then redis.call('PUBLISH', channel, table.concat(final, '\n')) end

-- C1: QUEUED again and the attempt given back; the fence stays raised, so the released attempt can write nothing.
for _, r in ipairs(releases) do
  local key = task_key .. r[1]
  local record = redis.call('HMGET', key, 'status', 'fence')
  if record[1] == 'PROCESSING' and record[2] == r[2] then
    redis.call('HSET', key, 'status', 'QUEUED')
    redis.call('HDEL', key, 'claim', 'worker')
    redis.call('HINCRBY', key, 'attempts', -1)
  end
end
return cmsgpack.pack({sealed, epoch, writes})
