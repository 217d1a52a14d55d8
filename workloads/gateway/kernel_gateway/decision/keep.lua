-- Keeps rights that were read from the database, unless something changed since the miss that made us read.
-- KEYS: rights of the user, version of rights
-- ARGV: keys of the epoch of modules and of the era of this server; version, epoch and era as the miss saw them; version
--       that was read, seconds to keep it, seconds to keep the rights, then the rights. Returns 1 when they are kept.
-- A change raises the version here before it commits in the database: then ours is lower, or what the miss saw is not
-- what is there any more, and what we hold may be from before the change.
local found = redis.call('MGET', KEYS[2], ARGV[1], ARGV[2])
local version, epoch, era = found[1] or '', found[2] or '', found[3] or ''
if version ~= ARGV[3] or epoch ~= ARGV[4] or era ~= ARGV[5] then return 0 end
if version ~= '' and tonumber(version) > tonumber(ARGV[6]) then return 0 end
if version ~= ARGV[6] then redis.call('SET', KEYS[2], ARGV[6], 'EX', ARGV[7]) end
redis.call('DEL', KEYS[1])
redis.call('SADD', KEYS[1], '#' .. ARGV[6] .. '.' .. epoch .. '.' .. era)
for first = 9, #ARGV, 1000 do
  redis.call('SADD', KEYS[1], unpack(ARGV, first, math.min(first + 999, #ARGV)))
end
redis.call('EXPIRE', KEYS[1], ARGV[8])
return 1
