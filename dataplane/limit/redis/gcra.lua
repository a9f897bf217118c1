-- Counts one request, or takes it back where the cost is negative. KEYS[1] holds when
-- all that was used will have come back, in microseconds of this server's clock. ARGV
-- is the time for one, for all that may come at once, and the cost. The answer is
-- whether the request is allowed, and in how many microseconds all is there again.
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local interval, tolerance, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local due = tonumber(redis.call('GET', KEYS[1]) or now)
due = math.min(math.max(due, now), now + tolerance)
local after = math.max(due + cost * interval, now)
if cost > 0 and after - now > tolerance then
  return {0, string.format('%.0f', due - now)}
end
if after > now then
  redis.call('SET', KEYS[1], string.format('%.3f', after), 'PX', math.ceil((after - now) / 1000) + 1)
else
  redis.call('DEL', KEYS[1])
end
return {1, string.format('%.0f', after - now)}
