-- The circuit breaker, and before it the limit of bodies.
--
-- A body that says its length is refused or streams. One that doesn't is held until it is complete, so that it can be
-- refused before the service has seen any of it; Envoy itself stops it when far more comes than the route allows.
--
-- One breaker an upstream and worker thread: each worker runs this script in an environment of its own, so nothing here
-- is shared or locked. An upstream that is well has no entry in `troubled`; the common request costs one look at it.
--
--   closed     FAILURES failures in a row, none older than WINDOW, open it. Any success forgets them.
--   open       everything is refused at once with 503 until OPEN has passed; then the next request is the probe.
--   half open  the probe is under way, everything else is refused. Its success closes, its failure opens again. A probe
--              whose end we never see (its client went away) is given up after OPEN, and the next request is one.
--
-- A failure is an answer of 500 or more: of the service, or Envoy's own for a connection that failed or a time-out.
-- Refusals carry the header DECIDED and never count; nor does a request that Envoy's own connection limits held back,
-- which says nothing about the service. While no upstream is in trouble a request costs two looks at its headers.
--
-- FAILURES, WINDOW and OPEN (milliseconds), NAMESPACE, REPORTS, PATH and DECIDED stand in front of this text.

local troubled = {}
local worker = string.match(tostring(troubled), "0x%x+") or "worker"
local born = os.time()
local turn, probes = 0, 0

-- Tells the gateway, and doesn't wait for it.
local function report(handle, upstream, state)
  turn = turn + 1
  handle:httpCall(
    REPORTS,
    { [":method"] = "POST", [":path"] = PATH, [":authority"] = "kernel", ["content-type"] = "application/json" },
    string.format('{"upstream":"%s","worker":"%s","born":%d,"turn":%d,"state":"%s"}', upstream, worker, born, turn, state),
    1000,
    true
  )
end

local function refuse(handle, milliseconds)
  handle:respond(
    { [":status"] = "503", [DECIDED] = "breaker", ["retry-after"] = tostring(math.max(1, math.ceil(milliseconds / 1000))) },
    "the service has failed repeatedly and gets no requests for now"
  )
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local length, held = headers:get("content-length"), false
  if length == nil then
    held = headers:get("upgrade") == nil
  end
  local about = handle:metadata()
  local limit, upstream = about:get("max_body"), about:get("upstream")
  if limit == nil then
    return -- a path that Envoy answers itself
  end
  if held then
    local body = handle:body() -- without a body it returns at once; what was read before is of no use after it
    length = body and body:length()
  end
  if length ~= nil and tonumber(length) > limit then
    return handle:respond({ [":status"] = "413" }, string.format("the body may have at most %d bytes", limit))
  end
  local breaker = upstream and troubled[upstream] -- the gateway's own API has none
  if breaker == nil or breaker.since == nil then
    return
  end
  local now = handle:timestamp()
  if now < breaker.since then
    breaker.since = now -- the clock was set back
  end
  local left = breaker.since + OPEN - now
  if left > 0 then
    return refuse(handle, breaker.probe and 1000 or left)
  end
  probes = probes + 1
  breaker.probe, breaker.since = probes, now
  handle:streamInfo():dynamicMetadata():set(NAMESPACE, "probe", probes)
  report(handle, upstream, "half-open")
end

local function failed(handle, upstream)
  local now = handle:timestamp()
  local breaker = troubled[upstream]
  if breaker == nil then
    breaker = { times = {} }
    troubled[upstream] = breaker
  end
  local times = breaker.times
  while times[1] ~= nil and (now - times[1] > WINDOW or now < times[1]) do
    table.remove(times, 1)
  end
  times[#times + 1] = now
  if #times >= FAILURES then
    breaker.times, breaker.since, breaker.probe = {}, now, nil
    report(handle, upstream, "open")
  end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local failure = tonumber(headers:get(":status")) >= 500
  if not failure and next(troubled) == nil then
    return
  end
  -- What the service answered carries the time it took; what Envoy answered for it doesn't, nor do refusals.
  local answered = headers:get("x-envoy-upstream-service-time") ~= nil
  if not answered and (not failure or headers:get(DECIDED) ~= nil) then
    return
  end
  local upstream = handle:metadata():get("upstream")
  local breaker = upstream and troubled[upstream]
  if upstream == nil or (breaker == nil and not failure) then
    return
  end
  local held_back = failure and headers:get("x-envoy-overloaded") ~= nil
  if breaker == nil or breaker.since == nil then
    if held_back then
      return
    elseif failure then
      failed(handle, upstream)
    else
      troubled[upstream] = nil
    end
    return
  end
  local mark = handle:streamInfo():dynamicMetadata():get(NAMESPACE)
  if breaker.probe == nil or mark == nil or breaker.probe ~= mark.probe then
    return
  end
  if held_back then
    breaker.probe, breaker.since = nil, breaker.since - OPEN -- it never arrived: the next request is the probe
  elseif failure then
    breaker.probe, breaker.since = nil, handle:timestamp()
    report(handle, upstream, "open")
  else
    troubled[upstream] = nil
    report(handle, upstream, "closed")
  end
end
