-- Raises the version of a tenant's rights; never lowers it, so that a message that was held up on the way can't bring
-- back what was withdrawn. KEYS: version. ARGV: the new one, seconds that it is kept.
local known = redis.call('GET', KEYS[1])
if known and tonumber(known) > tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return 1
