-- Shared by the scripts that compare fences. A fence is epoch.counter.
local function numbers_of(fence)
  local epoch, counter = string.match(fence or '', '^(%d+)%.(%d+)$')
  return tonumber(epoch or -1), tonumber(counter or -1)
end

local function before(one, other)                                     -- no fence is before any
  local one_epoch, one_counter = numbers_of(one)
  local other_epoch, other_counter = numbers_of(other)
  if one_epoch ~= other_epoch then return one_epoch < other_epoch end
  return one_counter < other_counter
end

local function is_of(fence, epoch) return string.sub(fence, 1, #epoch) == epoch end

-- R2: the epoch, and how many calls of this worker it has answered; nothing where there is no epoch, or where the worker
-- has had more answers than this ledger knows of: writes were lost, and only what Kafka says can be believed. Then the
-- epoch goes too. Each worker is counted by itself: the calls of others must not make up for those that were lost.
local function life(epoch_key, writes_key, barrier_key, worker, seen_epoch, seen_writes)
  local epoch = redis.call('GET', epoch_key)
  if not epoch then return nil end
  local present, writes = tonumber(epoch), redis.call('HINCRBY', writes_key, worker, 1)
  if seen_epoch > present or (seen_epoch == present and writes <= seen_writes) then
    redis.call('HSET', barrier_key, 'allotted', string.format('%.0f', math.max(present, seen_epoch)))
    redis.call('DEL', epoch_key)
    return nil
  end
  return epoch, writes
end
