-- How far a project's counters are: {key, used, held} each. Forgets in the index what has expired.
-- KEYS: the index. ARGV: now (or -1), grain, leases, buckets, the counters' prefix.
local now, GRAIN, HOLDS, RING = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]) + 2, tonumber(ARGV[4]) + 1
if now < 0 then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000000 + tonumber(time[2])
end
local function gone(ring, size, last, epoch)
  local sum = 0
  for index = math.max(last, epoch - size) + 1, epoch do sum = sum + ring[index % size + 1] end
  return sum
end
local found = {}
for _, key in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local raw = redis.call('GET', ARGV[5] .. key)
  if raw then
    local s = cmsgpack.unpack(raw)
    local used, held = s[2], s[4]
    if s[1] > 0 then used = used - gone(s[6], RING, s[3], math.floor(now / s[1])) end
    held = held - gone(s[7], HOLDS, s[5], math.floor(now / GRAIN))
    found[#found + 1] = {key, used, held}
  else
    redis.call('SREM', KEYS[1], key)
  end
end
return found
