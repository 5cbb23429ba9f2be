-- Claims and verdicts of many tasks of one queue, one atomic move.
-- KEYS: epoch, heartbeats, read mark, writes and barrier of the queue.
-- ARGV: one msgpack array (wire.py): epoch and number of its calls that the worker has seen, key of a task without its id,
-- topic, worker, incarnation, max takeovers, age in ms from which an absent record is no free pass; then accepts and
-- claims, an array each.
-- Values come as one argument and go as one reply: to take them apart costs the client more than the script runs.
local seen_epoch, seen_writes, task_key, topic, worker, incarnation, max_takeovers, oldest_ms, accepts, claims =
  unpack(cmsgpack.unpack(ARGV[1]))
local epoch, writes = life(KEYS[1], KEYS[4], KEYS[5], worker, seen_epoch, seen_writes)
if not epoch then return 'WAIT' end                                   -- R2: an empty ledger must not say "never seen"

-- R4: what is written to Kafka now has to bear the present epoch, or no reader counts it. The old fence is known still.
local prefix = epoch .. '.'
local function renew(key, fence)
  if is_of(fence, prefix) then return fence end
  local _, counter = numbers_of(fence)
  local renewed = string.format('%s.%.0f', epoch, counter)
  redis.call('HSET', key, 'fence', renewed, 'accepted', renewed, 'carried', fence)
  return renewed
end

local function same_claim(carried, fence)                              -- a later claim has a higher counter
  local _, before = numbers_of(carried)
  local _, present = numbers_of(fence)
  return before == present
end

-- Settle, step 1: accept by fence. Answers the time of acceptance (of a retry: the time it waits for), or 0 where the
-- attempt is not the present one: then it writes nothing (S2).
local accepted = {}
for i, a in ipairs(accepts) do
  local task_id, fence, state, wait_ms, failed, died, result, error_log = unpack(a)
  local key = task_key .. task_id
  local record = redis.call('HMGET', key, 'status', 'fence', 'accepted', 'finished_at_ms', 'carried', 'sealed', 'resend')
  if record[2] ~= fence and not (record[5] == fence and record[3] == record[2] and same_claim(fence, record[2])) then
    accepted[i] = 0
  elseif record[3] and record[3] == record[2] then                    -- accepted before, and the answer was lost
    if record[6] or (record[1] == 'SCHEDULED' and not record[7]) then
      accepted[i] = 0                                                 -- Kafka has it too: the claim says so
    else
      if record[1] ~= 'QUEUED' then renew(key, record[2]) end
      local at = record[1] == 'SCHEDULED' and redis.call('HGET', key, 'not_before_ms') or record[4]
      accepted[i] = tonumber(at or now)
    end
  elseif record[1] ~= 'PROCESSING' then
    accepted[i] = 0                                                   -- released: nothing of it can have run
  else
    local at = now
    if state == 'SUCCESS' and result ~= '' then                       -- what nearly all are: one write
      redis.call('HSET', key, 'status', state, 'accepted', fence, 'finished_at_ms', now, 'result', result)
    elseif state == 'SCHEDULED' then                                  -- the next generation, in an envelope of its own
      at = now + wait_ms
      redis.call('HINCRBY', key, 'generation', 1)
      redis.call('HSET', key, 'status', state, 'accepted', fence, 'not_before_ms', at, 'resend', 1)
    else
      redis.call('HSET', key, 'status', state, 'accepted', fence)
      if state ~= 'QUEUED' then redis.call('HSET', key, 'finished_at_ms', now) end
    end
    if result ~= '' then
      if state ~= 'SUCCESS' then redis.call('HSET', key, 'result', result) end
    elseif record[3] then redis.call('HDEL', key, 'result') end        -- that of the try before
    if error_log ~= '' then redis.call('HSET', key, 'error_log', error_log)
    elseif record[3] then redis.call('HDEL', key, 'error_log') end
    if failed then redis.call('HINCRBY', key, 'failures', 1) end
    if died then redis.call('HINCRBY', key, 'deaths', 1) end
    if state ~= 'QUEUED' then renew(key, fence) end
    accepted[i] = at
  end
end
if #claims == 0 then return cmsgpack.pack({accepted, {}, epoch, writes}) end
if not alive(KEYS[2], worker, incarnation) then return cmsgpack.pack({accepted, 'DEAD', epoch, writes}) end

local function settle(key, fence, reason)                             -- C5: decided here, answered as the verdict
  redis.call('HSET', key, 'status', 'FAILED', 'fence', fence, 'accepted', fence, 'error_log', reason,
    'finished_at_ms', now)
  redis.call('HDEL', key, 'token', 'result')
  return {'OVER', redis.call('HGETALL', key)}
end

local read = redis.call('EXISTS', KEYS[3]) == 1

local function claim(task_id, token, task_type, partition, offset, queued_at_ms, tries, max_attempts, refusal,
                     generation, in_doubt)
  local key = task_key .. task_id
  local record = redis.call('HMGET', key, 'status', 'fence', 'worker', 'incarnation', 'token', 'attempts', 'failures',
    'takeovers', 'started_at_ms', 'deaths', 'generation', 'resend', 'sealed', 'partition', 'offset')
  local status, fence, owner, owner_incarnation = record[1], record[2], record[3], record[4]
  local attempts, failures, deaths = tonumber(record[6] or 0), tonumber(record[7] or 0), tonumber(record[10] or 0)
  local present = tonumber(record[11] or 0)
  if not status and not read and (in_doubt or now - queued_at_ms > oldest_ms) then
    return {'UNREAD'}                                                 -- C8, R5: an absent record is no free pass
  elseif status == 'SUCCESS' or status == 'FAILED' then
    if not record[13] then renew(key, fence) end
    return {'OVER', redis.call('HGETALL', key)}
  elseif status and generation < present then                         -- C4: generations, never attempt numbers
    if record[12] and generation == present - 1 then
      renew(key, fence)
      return {'RESEND', redis.call('HGETALL', key)}
    end
    return {'STALE'}
  elseif status == 'PROCESSING' and record[5] == token and owner == worker and owner_incarnation == incarnation then
    return {'RUN', fence, attempts, failures, tonumber(record[9]), '', deaths}  -- C2: same token, same answer
  elseif status == 'PROCESSING' and alive(KEYS[2], owner, owner_incarnation) then
    return {'ELSEWHERE', owner}                                       -- C3: also where the owner is the asker
  end
  local lost = status == 'PROCESSING' and owner or ''
  local takeovers = tonumber(record[8] or 0) + (lost ~= '' and 1 or 0)
  attempts, failures = math.max(attempts, tries), math.max(failures, tries)
  fence = prefix .. (tonumber(string.match(fence or '', '%.(%d+)$') or 0) + 1)
  if refusal ~= '' or failures >= max_attempts or takeovers > max_takeovers then
    redis.call('HSET', key, 'task_id', task_id, 'task_type', task_type, 'topic', topic, 'partition', partition,
      'offset', offset, 'attempts', attempts, 'failures', failures, 'takeovers', takeovers, 'generation', generation)
    redis.call('HSETNX', key, 'queued_at_ms', queued_at_ms)
    if refusal ~= '' then return settle(key, fence, refusal) end
    if failures >= max_attempts then
      local why = 'no attempt is left: ' .. failures .. ' of ' .. max_attempts .. ' were made before'
      return settle(key, fence, redis.call('HGET', key, 'error_log') or why)
    end
    return settle(key, fence, 'its workers were lost ' .. takeovers .. ' times while it ran; the last one was ' .. lost)
  end
  -- I5: raised and stored before user code starts. A submit has written the rest, unless the worker was faster; to write
  -- it again would cost as much as all else.
  redis.call('HSET', key, 'status', 'PROCESSING', 'fence', fence, 'attempts', attempts + 1, 'worker', worker,
    'incarnation', incarnation, 'token', token, 'started_at_ms', now)
  if not status or tonumber(record[14]) ~= partition or tonumber(record[15]) ~= offset or generation ~= present then
    redis.call('HSET', key, 'task_id', task_id, 'task_type', task_type, 'topic', topic, 'partition', partition,
      'offset', offset, 'generation', generation)
    redis.call('HSETNX', key, 'queued_at_ms', queued_at_ms)
  end
  if failures > tonumber(record[7] or 0) or lost ~= '' then
    redis.call('HSET', key, 'failures', failures, 'takeovers', takeovers)
  end
  if record[12] then redis.call('HDEL', key, 'resend') end
  return {'RUN', fence, attempts + 1, failures, now, lost, deaths}
end

local answers = {}
for i, c in ipairs(claims) do answers[i] = claim(unpack(c)) end
return cmsgpack.pack({accepted, answers, epoch, writes})
