-- Claims and verdicts of many tasks of one queue, one atomic move.
-- KEYS: epoch, heartbeats, read mark, writes and barrier of the queue.
-- ARGV: one msgpack array (wire.py): epoch and number of its calls that the worker has seen, key of a task without its id,
-- topic, worker, incarnation, max takeovers, age in ms from which an absent record is no free pass; then accepts and
-- claims, an array each.
-- Values come as one argument and go as one reply: to take them apart costs the client more than the script runs.
-- A claim is answered with an array, or with 1: RUN with the first fence of this epoch, the first attempt of its task.
local seen_epoch, seen_writes, task_key, topic, worker, incarnation, max_takeovers, oldest_ms, accepts, claims =
  unpack(cmsgpack.unpack(ARGV[1]))
local epoch, writes = life(KEYS[1], KEYS[4], KEYS[5], worker, seen_epoch, seen_writes)
if not epoch then return 'WAIT' end                                   -- R2: an empty ledger must not say "never seen"

-- R4: what is written to Kafka now has to bear the present epoch, or no reader counts it. The old fence is known still.
local prefix = epoch .. '.'
local first = prefix .. '1'                                          -- the fence of a first claim: nothing was there before
local function renew(key, fence)
  if is_of(fence, prefix) then return fence end
  local _, counter = numbers_of(fence)
  local renewed = string.format('%s.%.0f', epoch, counter)
  redis.call('HSET', key, 'fence', renewed, 'carried', fence)
  return renewed
end

local function same_claim(carried, fence)                              -- a later claim has a higher counter
  local _, before = numbers_of(carried)
  local _, present = numbers_of(fence)
  return before == present
end

-- Nearly all tasks are claimed once and succeed; what only the others need is read where it counts.
local function accept_again(key, fence, status, present)
  local record = redis.call('HMGET', key, 'accepted', 'carried', 'sealed', 'resend', 'not_before_ms', 'finished_at_ms')
  local settled = status == 'SUCCESS' or status == 'FAILED' or status == 'SCHEDULED' or record[1] == present
  if not settled or (present ~= fence and not (record[2] == fence and same_claim(fence, present))) then return 0 end
  if record[3] or (status == 'SCHEDULED' and not record[4]) then return 0 end  -- Kafka has it too: the claim says so
  if status ~= 'QUEUED' then renew(key, present) end
  return tonumber(status == 'SCHEDULED' and record[5] or record[6] or now)
end

-- Settle, step 1: accept by fence. Answers the time of acceptance (of a retry: the time it waits for), or 0 where the
-- attempt is not the present one: then it writes nothing (S2). What was released is not PROCESSING: nothing of it can
-- have run.
local function accept(task_id, fence, state, wait_ms, failed, died, result, error_log)
  local key = task_key .. task_id
  local record = redis.call('HMGET', key, 'status', 'fence')
  if not record[2] then return 0 end
  if record[1] ~= 'PROCESSING' or record[2] ~= fence then return accept_again(key, fence, record[1], record[2]) end
  local at = now
  if state == 'SUCCESS' and result ~= '' then                         -- what nearly all are: one write
    redis.call('HSET', key, 'status', state, 'finished_at_ms', now_ms, 'result', result)
  elseif state == 'SCHEDULED' then                                    -- the next generation, in an envelope of its own
    at = now + wait_ms
    redis.call('HINCRBY', key, 'generation', 1)
    redis.call('HSET', key, 'status', state, 'not_before_ms', at, 'resend', 1)
  elseif state == 'QUEUED' then                                       -- again in place: only `accepted` tells it from a release
    redis.call('HSET', key, 'status', state, 'accepted', fence)
  else
    redis.call('HSET', key, 'status', state, 'finished_at_ms', now_ms)
  end
  local again = fence ~= first                                        -- the try before may have left something
  if result ~= '' then
    if state ~= 'SUCCESS' then redis.call('HSET', key, 'result', result) end
  elseif again then redis.call('HDEL', key, 'result') end
  if error_log ~= '' then redis.call('HSET', key, 'error_log', error_log)
  elseif again then redis.call('HDEL', key, 'error_log') end
  if failed then redis.call('HINCRBY', key, 'failures', 1) end
  if died then redis.call('HINCRBY', key, 'deaths', 1) end
  if state ~= 'QUEUED' then renew(key, fence) end
  return at
end

local accepted = {}
for i, a in ipairs(accepts) do accepted[i] = accept(unpack(a)) end
if #claims == 0 then return cmsgpack.pack({accepted, {}, epoch, writes, now}) end
if not alive(KEYS[2], worker, incarnation) then return cmsgpack.pack({accepted, 'DEAD', epoch, writes, now}) end

local function settle(key, fence, reason)                             -- C5: decided here, answered as the verdict
  redis.call('HSET', key, 'status', 'FAILED', 'fence', fence, 'error_log', reason, 'finished_at_ms', now_ms)
  redis.call('HDEL', key, 'claim', 'result')
  return {'OVER', redis.call('HGETALL', key)}
end

local read = redis.call('EXISTS', KEYS[3]) == 1

local UNTOUCHED, FIRST = {}, 1

local function claim(task_id, token, task_type, partition, offset, queued_at_ms, tries, max_attempts, refusal,
                     generation, in_doubt)
  local key, source, asked = task_key .. task_id, source_of(topic, partition, offset), incarnation .. '/' .. token
  local record = redis.call('HMGET', key, 'status', 'fence', 'source', 'generation')
  local status, fence, present = record[1], record[2], tonumber(record[4] or 0)
  if status == 'QUEUED' and not fence and record[3] == source and tries == 0 and generation == 0 and present == 0
      and refusal == '' then                                          -- what nearly all are
    redis.call('HSET', key, 'status', 'PROCESSING', 'fence', first, 'attempts', '1', 'worker', worker, 'claim', asked,
      'started_at_ms', now_ms)                                        -- I5: stored before user code starts
    return FIRST
  end
  local held = fence and redis.call('HMGET', key, 'worker', 'claim', 'attempts', 'failures', 'takeovers', 'started_at_ms',
    'deaths', 'resend', 'sealed') or UNTOUCHED                        -- no attempt, no fence, nothing of an attempt
  local owner, claimed, resend, sealed = held[1], held[2], held[8], held[9]
  local attempts, failures, deaths = tonumber(held[3] or 0), tonumber(held[4] or 0), tonumber(held[7] or 0)
  local owner_incarnation = claimed and string.match(claimed, '^[^/]*')
  if not status and not read and (in_doubt or now - queued_at_ms > oldest_ms) then
    return {'UNREAD'}                                                 -- C8, R5: an absent record is no free pass
  elseif status == 'SUCCESS' or status == 'FAILED' then
    if not sealed then renew(key, fence) end
    return {'OVER', redis.call('HGETALL', key)}
  elseif status and generation < present then                         -- C4: generations, never attempt numbers
    if resend and generation == present - 1 then
      renew(key, fence)
      return {'RESEND', redis.call('HGETALL', key)}
    end
    return {'STALE'}
  elseif status == 'PROCESSING' and claimed == asked and owner == worker then
    return {'RUN', fence, attempts, failures, tonumber(held[6]), '', deaths}  -- C2: same token, same answer
  elseif status == 'PROCESSING' and alive(KEYS[2], owner, owner_incarnation) then
    return {'ELSEWHERE', owner}                                       -- C3: also where the owner is the asker
  end
  local lost = status == 'PROCESSING' and owner or ''
  local takeovers = tonumber(held[5] or 0) + (lost ~= '' and 1 or 0)
  attempts, failures = math.max(attempts, tries), math.max(failures, tries)
  fence = prefix .. (tonumber(string.match(fence or '', '%.(%d+)$') or 0) + 1)
  if refusal ~= '' or failures >= max_attempts or takeovers > max_takeovers then
    redis.call('HSET', key, 'task_type', task_type, 'source', source, 'attempts', attempts, 'failures', failures,
      'takeovers', takeovers, 'generation', generation)
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
    'claim', asked, 'started_at_ms', now_ms)
  if record[3] ~= source or generation ~= present then
    redis.call('HSET', key, 'task_type', task_type, 'source', source, 'generation', generation)
    redis.call('HSETNX', key, 'queued_at_ms', queued_at_ms)
  end
  if failures > tonumber(held[4] or 0) or lost ~= '' then
    redis.call('HSET', key, 'failures', failures, 'takeovers', takeovers)
  end
  if resend then redis.call('HDEL', key, 'resend') end
  return {'RUN', fence, attempts + 1, failures, now, lost, deaths}
end

local answers = {}
for i, c in ipairs(claims) do answers[i] = claim(unpack(c)) end
return cmsgpack.pack({accepted, answers, epoch, writes, now})
