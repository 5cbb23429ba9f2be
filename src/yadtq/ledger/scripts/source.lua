-- Shared by the scripts that write records: where a task lies, as its record, its dead letter and people say it.
local function source_of(topic, partition, offset) return topic .. '/' .. partition .. '/' .. offset end
