-- One exchange, as kernel/quotas.py does it. Times are microseconds.
-- KEYS: the project's index, the ticket's reply, then a counter for each move.
-- ARGV: now (or -1 for the server's), ms to keep the reply (0: no ticket), grain, leases, buckets, moves as msgpack.
local now, keep_reply = tonumber(ARGV[1]), tonumber(ARGV[2])
local GRAIN, LEASES, RING = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]) + 1
local BUCKETS, HOLDS, SHARE = RING - 1, LEASES + 2, 16
local floor, max, min = math.floor, math.max, math.min

if keep_reply > 0 then
  local told = redis.call('GET', KEYS[2])
  if told then return cmsgpack.unpack(told) end
end
if now < 0 then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local function zeros(n)
  local t = {}
  for i = 1, n do t[i] = 0 end
  return t
end

-- State: width, used, used_at, held, held_at, buckets, holds.
local function set_back(s)
  if s[1] > 0 then
    s[3] = floor(now / s[1])
    s[6] = zeros(RING)
    s[6][s[3] % RING + 1] = s[2]
  end
  s[5] = floor(now / GRAIN)
  s[7] = zeros(HOLDS)
  s[7][(s[5] + LEASES) % HOLDS + 1] = s[4]
end

local function advance_ring(ring, size, last, epoch)
  local gone = 0
  for index = max(last, epoch - size) + 1, epoch do
    local place = index % size + 1
    gone = gone + ring[place]
    ring[place] = 0
  end
  return gone
end

local function advance(s)
  if s[1] > 0 then
    local epoch = floor(now / s[1])
    if epoch > s[3] then
      s[2] = s[2] - advance_ring(s[6], RING, s[3], epoch)
      s[3] = epoch
    elseif epoch < s[3] - 1 then
      set_back(s)
    end
  end
  local epoch = floor(now / GRAIN)
  if epoch > s[5] then
    s[4] = s[4] - advance_ring(s[7], HOLDS, s[5], epoch)
    s[5] = epoch
  elseif epoch < s[5] - 1 then
    set_back(s)
  end
end

local function take_back(s, amount, back_at)
  if s[1] == 0 then
    s[2] = max(s[2] - amount, 0)
    return
  end
  local first, last = back_at, back_at
  if back_at < 0 then first, last = s[3] - RING + 1, s[3] end
  for index = first, last do
    local place = index % RING + 1
    if index > s[3] - RING and index <= s[3] then
      local taken = min(amount, s[6][place])
      s[6][place] = s[6][place] - taken
      s[2] = s[2] - taken
      amount = amount - taken
    end
  end
end

local moves = cmsgpack.unpack(ARGV[6])
local states, frees, granted = {}, {}, 1
for i, m in ipairs(moves) do
  local limit, window, spent, back, back_at = m[1], m[2], m[5], m[13], m[6]
  local had, lease, ask = m[7], m[8], m[10]
  local raw = redis.call('GET', KEYS[i + 2])
  local width = floor(window / BUCKETS)
  local s
  if raw then
    s = cmsgpack.unpack(raw)
  else
    s = {width, 0, 0, 0, 0, width > 0 and zeros(RING) or {}, zeros(HOLDS)}
    redis.call('SADD', KEYS[1], string.sub(KEYS[i + 2], #KEYS[1] + 2))
  end
  advance(s)
  if spent > 0 then
    if width > 0 then
      local place = s[3] % RING + 1
      s[6][place] = s[6][place] + spent
    end
    s[2] = s[2] + spent
  end
  if back > 0 then take_back(s, back, back_at) end
  local left = lease - s[5]
  if had > 0 and left > 0 and left <= LEASES then
    local place = lease % HOLDS + 1
    local given = min(had, s[7][place])
    s[7][place] = s[7][place] - given
    s[4] = s[4] - given
  end
  states[i] = s
  frees[i] = limit - s[2] - s[4] - m[9]
  if ask > frees[i] and m[4] and ask ~= 0 then granted = 0 end
end

local function wait_of(s, m, free)
  if m[10] > m[1] then return -1 end
  local missing = m[10] - free
  if s[1] > 0 then
    for index = s[3] - RING + 1, s[3] do
      missing = missing - s[6][index % RING + 1]
      if missing <= 0 then return max((index + RING) * s[1] - now, 1) end
    end
  end
  return GRAIN
end

local reply = {}
for i, m in ipairs(moves) do
  local s, free, hold, ask = states[i], frees[i], m[9], m[10]
  local left = free
  local fits = (ask <= free or not m[4] or ask == 0) and 1 or 0
  if granted == 1 then
    left = left - ask
    if m[11] then
      if s[1] > 0 then
        local place = s[3] % RING + 1
        s[6][place] = s[6][place] + ask
      end
      s[2] = s[2] + ask
    else
      hold = hold + ask
    end
    if m[12] > 0 and left >= SHARE then
      local spare = min(m[12], floor(left / SHARE))
      hold = hold + spare
      left = left - spare
    end
  end
  local lease = s[5] + LEASES
  if hold > 0 then
    local place = lease % HOLDS + 1
    s[7][place] = s[7][place] + hold
    s[4] = s[4] + hold
  end
  reply[i] = {granted, fits, hold, lease, s[3], s[2], left, fits == 1 and 0 or wait_of(s, m, free)}
  redis.call('SET', KEYS[i + 2], cmsgpack.pack(s))
  if m[3] > 0 then
    redis.call('PEXPIREAT', KEYS[i + 2], m[3] + 3600000)
  else
    redis.call('PEXPIRE', KEYS[i + 2], floor((m[2] * 2 + LEASES * GRAIN * 2) / 1000))
  end
end
if keep_reply > 0 then redis.call('SET', KEYS[2], cmsgpack.pack(reply), 'PX', keep_reply) end
return reply
