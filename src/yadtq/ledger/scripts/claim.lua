-- Claim many records at once, before any user code runs. KEYS: epoch, heartbeats, one task record a claim.
-- ARGV: worker, incarnation, max takeovers; then 10 values a claim:
--   token, task type, topic, partition, offset, queued_at_ms, tries, max_attempts, refusal, task id
local WIDTH, epoch = 10, redis.call('GET', KEYS[1])
if not epoch then return 'WAIT' end                                   -- R2: an empty ledger must not say "never seen"
local worker, incarnation, max_takeovers = ARGV[1], ARGV[2], tonumber(ARGV[3])
if not alive(KEYS[2], worker, incarnation) then return 'DEAD' end

local function settle(key, fence, reason)                             -- C5: decided here, answered as the verdict
  redis.call('HSET', key, 'status', 'FAILED', 'fence', fence, 'accepted', fence, 'error_log', reason,
    'finished_at_ms', now)
  redis.call('HDEL', key, 'token', 'result')
  return {'OVER', redis.call('HGETALL', key)}
end

local answers = {}
for i = 3, #KEYS do
  local at = 3 + (i - 3) * WIDTH
  local key, token = KEYS[i], ARGV[at + 1]
  local tries, max_attempts, refusal = tonumber(ARGV[at + 7]), tonumber(ARGV[at + 8]), ARGV[at + 9]
  local record = redis.call('HMGET', key, 'status', 'fence', 'worker', 'incarnation', 'token', 'attempts', 'failures',
    'takeovers', 'started_at_ms', 'deaths')
  local status, fence, owner, owner_incarnation = record[1], record[2], record[3], record[4]
  local attempts, failures, deaths = tonumber(record[6] or 0), tonumber(record[7] or 0), tonumber(record[10] or 0)
  if status == 'SUCCESS' or status == 'FAILED' then
    answers[#answers + 1] = {'OVER', redis.call('HGETALL', key)}
  elseif status == 'PROCESSING' and record[5] == token and owner == worker and owner_incarnation == incarnation then
    answers[#answers + 1] = {'RUN', fence, attempts, failures, tonumber(record[9]), '', deaths}  -- C2: same token, same answer
  elseif status == 'PROCESSING' and alive(KEYS[2], owner, owner_incarnation) then
    answers[#answers + 1] = {'ELSEWHERE', owner}                      -- C3: also where the owner is the asker
  else
    local lost = status == 'PROCESSING' and owner or ''
    local takeovers = tonumber(record[8] or 0) + (lost ~= '' and 1 or 0)
    attempts, failures = math.max(attempts, tries), math.max(failures, tries)
    fence = epoch .. '.' .. (tonumber(string.match(fence or '', '%.(%d+)$') or 0) + 1)
    redis.call('HSET', key, 'task_id', ARGV[at + 10], 'task_type', ARGV[at + 2], 'topic', ARGV[at + 3],
      'partition', ARGV[at + 4], 'offset', ARGV[at + 5], 'attempts', attempts, 'failures', failures,
      'takeovers', takeovers)
    redis.call('HSETNX', key, 'queued_at_ms', ARGV[at + 6])
    if refusal ~= '' then
      answers[#answers + 1] = settle(key, fence, refusal)
    elseif failures >= max_attempts then
      local why = 'no attempt is left: ' .. failures .. ' of ' .. max_attempts .. ' were made before'
      answers[#answers + 1] = settle(key, fence, redis.call('HGET', key, 'error_log') or why)
    elseif takeovers > max_takeovers then
      local why = 'its workers were lost ' .. takeovers .. ' times while it ran; the last one was ' .. lost
      answers[#answers + 1] = settle(key, fence, why)
    else                                                              -- I5: raised and stored before user code starts
      redis.call('HSET', key, 'status', 'PROCESSING', 'fence', fence, 'worker', worker, 'incarnation', incarnation,
        'token', token, 'attempts', attempts + 1, 'started_at_ms', now)
      answers[#answers + 1] = {'RUN', fence, attempts + 1, failures, now, lost, deaths}
    end
  end
end
return answers
