-- Write QUEUED (or, where it waits for a time, SCHEDULED) records after their delivery reports.
-- ARGV: one msgpack array (wire.py): key of a task without its id; then the tasks, an array each.
-- A worker may be faster than the submitter: a task that has a record keeps it, so no state moves backwards.
local task_key, tasks = unpack(cmsgpack.unpack(ARGV[1]))
for _, task in ipairs(tasks) do
  local task_id, task_type, topic, partition, offset, queued_at_ms, tries, not_before_ms = unpack(task)
  local key = task_key .. task_id
  if redis.call('EXISTS', key) == 0 then
    local set = {'status', not_before_ms > 0 and 'SCHEDULED' or 'QUEUED', 'task_type', task_type,
      'source', source_of(topic, partition, offset), 'queued_at_ms', queued_at_ms}
    local function also(name, value)                                  -- 0 where it is left out: a field costs 1 us
      if value > 0 then
        set[#set + 1] = name
        set[#set + 1] = value
      end
    end
    also('attempts', tries)
    also('not_before_ms', not_before_ms)
    redis.call('HSET', key, unpack(set))
  end
end
return #tasks
