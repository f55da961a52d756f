-- One gateway tells what comes to it of one key of a limit, and gets its share of the rate until it lapses. Tokens go to its stock, or back.
--
-- The hash has a field for each gateway, `share demand until`, and `pool`, `tokens time`: tokens that no gateway has. Into the pool flows
-- what of the rate is leased to nobody; out of it goes what gateways are given at once or have taken before they had a lease. So all
-- gateways together get the rate and the burst, however their loads move. Times are seconds, rates per second.
--
-- KEYS: the key. ARGV: gateway, rate, burst, a stock, demand (empty: it stops), balance, level, time (empty: the server's).
local key, me = KEYS[1], ARGV[1]
local rate, full, enough = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local demand, balance, level, now = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
demand = demand and math.max(demand, 0.000001) -- it is divided by
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) + tonumber(time[2]) / 1000000
end

local LONGEST = 600 -- a lease, in seconds

local pool, at, leases = full, now, {}
local known = redis.pcall('HGETALL', key)
if known.err then -- not ours, so the count begins anew
  redis.call('DEL', key)
  known = {}
end
for i = 1, #known, 2 do
  local a, b, c = string.match(known[i + 1], '^([%d.-]+) ([%d.-]+) ?([%d.]*)$')
  a, b, c = tonumber(a), tonumber(b), tonumber(c)
  if known[i] == 'pool' then
    pool, at = a or full, math.min(b or now, now)
  else
    -- One that would lapse later than any does is of a clock that was ahead.
    leases[known[i]] = { share = a or 0, demand = b or 0, lapses = c and c <= now + LONGEST + 1 and c or 0 }
  end
end

pool = pool + rate * (now - at)
local others, demands, gateways, last = 0, demand or 0, 1, now
for name, lease in pairs(leases) do
  pool = pool - lease.share * math.max(0, math.min(lease.lapses, now) - at)
  if lease.lapses <= now then
    redis.call('HDEL', key, name)
  elseif name ~= me then
    others, demands, gateways = others + lease.share, demands + lease.demand, gateways + 1
    last = math.max(last, lease.lapses)
  end
end
-- A debt is bounded, so that no gateway's mistake locks the others out.
pool = math.max(math.min(pool + balance, full), -rate)

local share, stock, life, patience = 0, 0, 0, 128
if demand then
  -- A debt is paid back in ten seconds, out of everybody's share.
  local whole = rate + math.min(pool, 0) / 10
  -- All gateways together talk 7 times in 800 requests: 5 times as their requests are, so that the shares keep up with the loads, and
  -- twice each as often as any other, so that what lies unused where few requests come is soon found.
  patience = 1 / (1 / 160 + demands / (400 * gateways * demand))
  local room = enough
  if demands < whole then
    -- The rest is left to the pool, from which whoever needs it gets it at once.
    share = demand + math.min((whole - demands) / gateways, demand + rate / 32) / 2
  else
    share = whole * demand / demands -- as many of each gateway's requests pass
    if pool < enough then
      room = math.min(room, (1 - share / demand) * patience / 4) -- what it lacks in a quarter of the time until it asks again
    end
  end
  local possible = math.max(0, math.min(share, whole - others))
  if possible < share * 3 / 4 then
    patience = math.min(patience, 32) -- the others have too much; when they have asked, there is more
  end
  share = possible
  stock = math.min(room - level, math.max(pool, 0))
  pool = pool - stock
  life = math.min(math.max((2 * patience + 16) / demand, 1), LONGEST) -- twice as long as until it asks again, and a little
  last = math.max(last, now + life)
  redis.call('HSET', key, me, string.format('%.6f %.6f %.6f', share, demand, now + life))
else
  redis.call('HDEL', key, me)
end
redis.call('HSET', key, 'pool', string.format('%.6f %.6f', pool, now))
-- When the last lease has lapsed and the pool is full, nothing is lost with the key.
redis.call('PEXPIRE', key, math.ceil((last - now + (full - pool) / rate + 1) * 1000))
-- Whether to ask again before the stock is used up: there is more, or there is going to be.
local more = pool >= enough or demands < rate
-- Numbers lose their fractions on the way: millionths.
return {math.floor(share * 1000000), math.floor(stock * 1000000), math.floor(life * 1000000), gateways, math.ceil(patience), more and 1 or 0}
