-- Write QUEUED records after their delivery reports. KEYS: one task record each. ARGV, 7 values each:
--   task id, task type, topic, partition, offset, queued_at_ms, tries
-- A worker may be faster than the submitter: a task that has a record keeps it, so no state moves backwards.
local WIDTH = 7
for i, key in ipairs(KEYS) do
  if redis.call('EXISTS', key) == 0 then
    local at = (i - 1) * WIDTH
    redis.call('HSET', key, 'status', 'QUEUED', 'task_id', ARGV[at + 1], 'task_type', ARGV[at + 2],
      'topic', ARGV[at + 3], 'partition', ARGV[at + 4], 'offset', ARGV[at + 5], 'queued_at_ms', ARGV[at + 6],
      'attempts', ARGV[at + 7])
  end
end
return #KEYS
