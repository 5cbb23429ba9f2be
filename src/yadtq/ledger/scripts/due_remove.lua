-- Take out entries whose firing is over. KEYS: due (sorted set), waiting (hash). ARGV: one msgpack array of keys.
for _, key in ipairs(cmsgpack.unpack(ARGV[1])) do
  redis.call('ZREM', KEYS[1], key)
  redis.call('HDEL', KEYS[2], key)
end
return 1
