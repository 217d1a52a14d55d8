-- KEYS: the budget. ARGV: limit, burst.
return charge(KEYS[1], redis.call('GET', KEYS[1]), tonumber(ARGV[1]), tonumber(ARGV[2]))
