-- The rate limit: GCRA in its leaky-bucket form, in one key that holds "{last} {level}".
--
-- `level` counts what was let through and has not drained yet, in units of which a request adds REQUEST and a
-- microsecond takes away `limit` (requests a minute). All are whole numbers far below 2^53, so nothing is ever rounded:
-- in no 60 seconds do more than limit + burst pass, exactly. A client that hammers gets every request that drained, so
-- never less than the limit. The level does not depend on the limit: a new limit holds from the next request. What is
-- refused writes nothing. The clock is the server's own, so replicas of the gateway need not agree on the time.
local REQUEST = 60000000

-- Returns whether the request passes, the level after it, and whether the clock has stepped back since the state was
-- written: then nothing drains, but the state must be written with the new time even if the request does not pass.
local function spend(state, now, limit, burst)
  local level, stepped_back = 0, false
  if state then
    local last, debt = string.match(state, '^(%d+) (%d+)$')
    if last then
      local drained = (now - last) * limit
      if drained < 0 then
        drained, stepped_back = 0, true
      end
      level = debt - drained
      if level < 0 then level = 0 end
    end
  end
  if level + REQUEST > burst * REQUEST then return false, level, stepped_back end
  return true, level + REQUEST, stepped_back
end

-- Charges one request to `key` whose value is `state`. The first part of every answer:
-- {0 passed | 1 refused, limit, burst, requests left now, seconds until all is drained, seconds to wait, now in µs}
local function charge(key, state, limit, burst)
  local clock = redis.call('TIME')
  local now = clock[1] * 1000000 + clock[2]
  local passed, level, stepped_back = spend(state, now, limit, burst)
  local drain = level / limit
  if passed or stepped_back then
    redis.call('SET', key, string.format('%.0f %.0f', now, level), 'PX', math.ceil(drain / 1000) + 1)
  end
  local full_in = math.ceil(drain / 1000000)
  if passed then return {0, limit, burst, math.floor(burst - level / REQUEST), full_in, 0, now} end
  local wait = (level + REQUEST - burst * REQUEST) / limit
  return {1, limit, burst, 0, full_in, math.ceil(wait / 1000000), now}
end
