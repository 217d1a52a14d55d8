-- Gives every request a trace: the client's `traceparent` where it is valid (W3C Trace Context), else a new one.
-- `x-trace-id` is its id, for Envoy's own errors, its log, and services that only want to log it.
--
-- A new trace is named after the request id, which Envoy makes as a random UUID unless the client sent one.

local random = math.random
math.randomseed(os.time() + tonumber(string.match(tostring({}), "0x(%x+)") or "0", 16) % 2 ^ 31)

local function valid(traceparent)
  if traceparent == nil or #traceparent > 256 or string.find(traceparent, "[^0-9a-z.=,;:_+/-]") then
    return nil
  end
  local version, trace, span, rest = string.match(traceparent, "^(%x%x)%-(%x+)%-(%x+)%-%x%x(.*)$")
  if version == nil or #trace ~= 32 or #span ~= 16 or not string.find(trace, "[^0]") or not string.find(span, "[^0]") then
    return nil
  end
  if version == "ff" or (version == "00" and rest ~= "") or (rest ~= "" and string.sub(rest, 1, 1) ~= "-") then
    return nil
  end
  return trace
end

local function hex(digits)
  local parts = {}
  for i = 1, digits / 4 do
    parts[i] = string.format("%04x", random(0, 65535))
  end
  return table.concat(parts)
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local trace = valid(headers:get("traceparent"))
  if trace == nil then
    local request = string.gsub(headers:get("x-request-id") or "", "-", "")
    trace = string.lower(request)
    if not string.find(trace, "^%x+$") or #trace ~= 32 or not string.find(trace, "[^0]") then
      trace = hex(32)
    end
    headers:replace("traceparent", "00-" .. trace .. "-" .. hex(12) .. "0001-01")
    headers:remove("tracestate")
  end
  headers:replace("x-trace-id", trace)
end
