-- How far a partition's due index goes. KEYS: due (sorted set), waiting (hash). Answers the position and the count.
return {position(KEYS[1], KEYS[2]), redis.call('ZCARD', KEYS[1])}
