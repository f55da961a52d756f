-- Finds a repeated message, counts the user's limits, claims the session, sends its state unless the caller has it.
--
-- KEYS  as shared, then a limit each
-- ARGV  time, turns, message id, version, user's version and number of the state that the caller has, ms until the claim lapses, its
--       name, gateway, 'claim' or 'look', 'back', 'front' or '' (where to wait), ms to wait, then for each limit its period in µs, burst, shadow
-- ->    answered, seq, record | limited, index, µs | busy, ms | claimed, fence[, state]
local turns, id, v, user_v, n, term, name, gateway, mode, place, wait = unpack(ARGV, 2, 12)
turns, n, term = tonumber(turns), tonumber(n), tonumber(term)
local LIMIT_KEYS, LIMIT_ARGS = 6, 12 -- so many others before them

local u = read_user()
local s = read_session(u)
local seq, record = find_turn(s, id)
if seq then return { 'answered', seq, record } end
if s.expired then s = no_session(u, s.e) end

local function granted(fence)
  local reply = { 'claimed', tonumber(fence) }
  if not is_known(s, u, v, user_v) then reply[3] = state(s, u, turns, v, n) end
  return reply
end

local c = read_claim()
local held = c and c.till > now and c.e == epoch(s, u)
if held and c.name == name then return granted(c.fence) end -- asked twice: the first answer was lost

-- Each limit is the time, in µs, at which all of its turns are back. What cannot be one counts as none.
local micros_now, taken = tonumber(ARGV[1]) and now * 1000 or micros, {}
for i = 1, #KEYS - LIMIT_KEYS do
  local key, period, burst, shadow = KEYS[LIMIT_KEYS + i], unpack(ARGV, LIMIT_ARGS + 3 * i - 2, LIMIT_ARGS + 3 * i)
  period, burst = tonumber(period), tonumber(burst)
  local value = redis.pcall('GET', key)
  local full = type(value) == 'string' and value:match('^%d+$') or micros_now
  full = math.min(math.max(tonumber(full), micros_now), micros_now + period * burst)
  local over = full + period - period * burst - micros_now
  if over <= 0 then
    taken[key] = full + period
  elseif shadow == '0' then
    return { 'limited', i - 1, math.ceil(over) }
  end
end

local reply
if not held and mode == 'claim' then reply = granted(math.max(micros, c and c.fence + 1 or 0)) end -- reads, and may refuse

for key, full in pairs(taken) do
  call('SET', key, ('%.0f'):format(full), 'PX', math.ceil((full - micros_now) / 1000))
end

if not reply then
  if place ~= '' and not call('LPOS', W, gateway) then
    call(place == 'front' and 'LPUSH' or 'RPUSH', W, gateway)
    outlive(W, tonumber(wait))
  end
  return { 'busy', held and c.till - now or 0 }
end

c = { fence = ('%.0f'):format(reply[2]), till = now + term, e = epoch(s, u), name = name }
call('SET', C, sealed_claim(c), 'PX', term)
-- What expires during the turn is there until its end.
if u.there and u.x - now < term then outlive(U, term) end
if (s.v ~= NONE or s.e ~= NONE) and s.x - now < term then
  for _, key in ipairs({ S, T, I }) do outlive(key, term) end
end
return reply
