-- One decision in one round trip.
-- KEYS: budget. What is only read is no KEYS: those need the right to write.
-- ARGV: keys of the budget's configuration, block flag, version of rights, epoch of modules, era of this server, active
--       modules, rights of the user; field of the limit, module ('' for none), three texts of which the user must hold one
-- Answers what charge() does, with the verdict first (the numbers of script.py); a miss adds version, epoch and era.
local budget, config_key, block, version_key, epoch_key, era_key, modules, rights, field, module, one, other, all =
  KEYS[1], unpack(ARGV)

local found = redis.call('MGET', budget, config_key, block, version_key, epoch_key, era_key)
local limit, burst
if found[2] then
  local readable, config = pcall(cjson.decode, found[2])
  if readable and type(config) == 'table' then limit, burst = config[field], config.burst end
end
if type(limit) ~= 'number' or limit < 1 or limit > 1000000000 then limit = field == 'rps' and 1000 or 5000 end
if type(burst) ~= 'number' or burst < 1 or burst > 1000000000 then burst = 200 end

local answer = charge(budget, found[1], math.floor(limit), math.floor(burst))
if answer[1] ~= 0 then return answer end
-- The operator keeps a configuration for every tenant. Where there is none, this server has lost the tenant or never
-- knew it, and what else it says of it (not blocked, no module) means nothing.
if not found[2] then
  answer[1] = 6 -- cold
elseif found[3] then
  answer[1] = 2 -- blocked
elseif module ~= '' and redis.call('SISMEMBER', modules, module) == 0 then
  answer[1] = 3 -- inactive
else
  local version, epoch, era = found[4] or '', found[5] or '', found[6] or ''
  local held = redis.call('SMISMEMBER', rights, '#' .. version .. '.' .. epoch .. '.' .. era, one, other, all)
  if version == '' or held[1] == 0 then
    answer[1], answer[8], answer[9], answer[10] = 5, version, epoch, era -- a miss
  elseif held[2] + held[3] + held[4] == 0 then
    answer[1] = 4 -- forbidden
  end
end
return answer
