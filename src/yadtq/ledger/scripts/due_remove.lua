-- Take out entries whose firing is over. KEYS: due (sorted set), waiting (hash). ARGV: one msgpack array of pairs: key,
-- offset. What was written again under its key lies elsewhere and stays: its tombstone is still to come.
for _, entry in ipairs(cmsgpack.unpack(ARGV[1])) do
  local key, offset = unpack(entry)
  if offset_of(redis.call('HGET', KEYS[2], key)) == offset then
    redis.call('ZREM', KEYS[1], key)
    redis.call('HDEL', KEYS[2], key)
  end
end
return 1
