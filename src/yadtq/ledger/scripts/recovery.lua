-- Who reads the outcomes of a queue in, and the new life of its ledger. KEYS: epoch, read mark, barrier, lock, writes.
-- ARGV: what (take, allot, open or drop), token of whoever asks, then
--   take: age in ms that the barrier must have, how long the lock and the barrier are kept in ms;
--   allot: the highest epoch that was seen in Kafka;
--   open: epoch (0: it stays, the outcomes were only read), batches that were restored, how long the reading counts at most in ms.
local what, token = ARGV[1], ARGV[2]
local epoch, holder = redis.call('GET', KEYS[1]), redis.call('HGET', KEYS[4], 'token')
if what == 'take' then
  if epoch and redis.call('EXISTS', KEYS[2]) == 1 then return 'NOTHING' end
  if not epoch then
    redis.call('HSETNX', KEYS[3], 'since_ms', now)
    redis.call('PEXPIRE', KEYS[3], ARGV[5])
    if now - tonumber(redis.call('HGET', KEYS[3], 'since_ms')) < tonumber(ARGV[3]) then return 'EARLY' end
  end
  if holder and holder ~= token then return 'TAKEN' end
  redis.call('HSET', KEYS[4], 'token', token)
  redis.call('HSETNX', KEYS[4], 'batches', 0)
  redis.call('PEXPIRE', KEYS[4], ARGV[4])
  return epoch and 'READ' or 'REBUILD'
end
if holder ~= token then return 0 end
if what == 'drop' then return redis.call('DEL', KEYS[4]) end
if what == 'allot' then
  if epoch then return 0 end
  local last = tonumber(redis.call('HGET', KEYS[3], 'allotted') or 0)
  local allotted = math.max(now, tonumber(ARGV[3]) + 1, last + 1)
  redis.call('HSET', KEYS[3], 'allotted', string.format('%.0f', allotted))
  return allotted
end
-- A ledger that lost writes while it was read in may still know the lock, but not all that was restored.
if redis.call('HGET', KEYS[4], 'batches') ~= ARGV[4] then return 0 end
if ARGV[3] == '0' then
  if not epoch then return 0 end
else
  if epoch or redis.call('HGET', KEYS[3], 'allotted') ~= ARGV[3] then return 0 end
  redis.call('SET', KEYS[1], ARGV[3])
  redis.call('DEL', KEYS[3], KEYS[5])
end
-- C8: the reading counts as long as everything that was read in is there.
local least = tonumber(redis.call('HGET', KEYS[4], 'least_ms') or now + ARGV[5])
local counts_ms = math.min(tonumber(ARGV[5]), least - now)
if counts_ms > 0 then redis.call('SET', KEYS[2], 1, 'PX', string.format('%.0f', counts_ms)) else redis.call('DEL', KEYS[2]) end
redis.call('DEL', KEYS[4])
return 1
