-- What wrk sends, and how it reports: one line of JSON, latencies in microseconds.
function init(args)
   local size = tonumber(args[1])
   if size > 0 then
      wrk.method = "POST"
      wrk.body = string.rep("x", size)
   end
   connections = tonumber(args[2])
   request_text = wrk.format()
end

function request()
   if connections > 0 then
      return wrk.format(nil, nil, {["X-Connection"] = "c" .. math.random(0, connections - 1)})
   end
   return request_text
end

function done(summary, latency)
   local e = summary.errors
   local points = {}
   for _, p in ipairs({1, 5, 10, 25, 50, 75, 90, 95, 98, 99, 99.5, 99.9, 99.99}) do
      points[#points + 1] = string.format('"%g":%d', p, latency:percentile(p))
   end
   points[#points + 1] = string.format('"100":%d', latency.max)
   io.write(string.format('{"requests":%d,"duration_us":%d,"errors":%d,"percentiles":{%s}}\n', summary.requests,
      summary.duration, e.connect + e.read + e.write + e.status + e.timeout, table.concat(points, ",")))
end
