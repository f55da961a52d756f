-- Appends a turn, changes slots, renews the expiry and gives up the claim.
--
-- ARGV  time, turns, message id, fence, '1' if the claim has lapsed by the caller's clock; the version, user's version, epoch and number
--       that the turn began with; the new version, the user's new version, the turn's record, what the flow keeps, ms to keep, the
--       session's id; then for each change of a user's slot: 'set', 'add' or 'remove', name, value
-- ->    repeated, seq, record, state | lost | stored[, user's version, user's slots]
local turns, id, fence, lapsed, v, user_v, e, n, next_v, next_u, record, flow, keep, sid = unpack(ARGV, 2, 15)
turns, lapsed, keep = tonumber(turns), lapsed == '1', tonumber(keep)
local base = { v = v, u = user_v, e = e, n = tonumber(n) }
local CHANGES = 16
local changes_slots = #ARGV >= CHANGES

local function repeated(s, u, c, seq, first)
  local reply = { 'repeated', seq, first, state(s, u, turns, base.v, base.n) }
  if c and c.fence == fence and c.till > 0 then
    call('DEL', C)
    wake()
  end
  return reply
end

-- A claim that is gone without having lapsed went with a server: if nobody wrote and nobody else claims, the turn is as good.
local function is_claimed(c)
  if not c then return not lapsed end
  return c.fence == fence and c.till > now and c.e == base.e
end

local function present_slot(u, name)
  local field = ':' .. name
  return not u.expired and call('HSTRLEN', U, field) > 0 and unseal(U .. field, call('HGET', U, field))
end

local function sum(before, by)
  if not before then return by end
  if before:byte() ~= 1 then return nil end -- no number
  return '\1' .. struct.pack('<d', struct.unpack('<d', before, 2) + struct.unpack('<d', by, 2))
end

-- The user's slots that change, by name, false for one that goes; and how many there are then.
local function changed_slots(u)
  local changed, count = {}, u.k
  if changes_slots and u.k > 0 then bounded(U, MAX_HASH) end
  for i = CHANGES, #ARGV, 3 do
    local change, name, value = ARGV[i], ARGV[i + 1], ARGV[i + 2]
    local before = changed[name]
    if before == nil then before = present_slot(u, name) end
    if change == 'remove' then
      value = false
    elseif not before and count >= MAX_SLOTS then
      value = nil
    elseif change == 'add' then
      value = sum(before, value)
    end
    if value ~= nil then
      count = count + (value and 1 or 0) - (before and 1 or 0)
      changed[name] = value
    end
  end
  return changed, count
end

local function append(s)
  if s.k == 0 then call('UNLINK', T) end
  call('RPUSH', T, id, record)
  s.v, s.n, s.k, s.b, s.x = next_v, s.n + 1, s.k + 1, s.b + #id + #record, now + keep
  if s.k > turns then
    for _, part in ipairs(call('LPOP', T, 2 * (s.k - turns))) do s.b = math.max(s.b - #part, 0) end
    s.k = turns
  end
  write_session(s)
  call('HSET', S, 'd', flow)
  call('PEXPIRE', S, keep)
  call('PEXPIRE', T, keep)
  for _, old in ipairs(call('ZRANGE', I, '-inf', now, 'BYSCORE', 'LIMIT', 0, 16)) do call('ZREM', I, old) end
  call('ZADD', I, s.x, sid)
  outlive(I, keep)
end

local function renew_user(u, changed, count)
  if u.expired then call('DEL', U) end
  for name, value in pairs(changed) do
    local field = ':' .. name
    if value then
      call('HSET', U, field, seal(U .. field, value))
    else
      call('HDEL', U, field)
    end
  end
  if changes_slots then u.v = next_u end
  u.k, u.x = count, now + keep
  write_user(u)
  outlive(U, keep)
end

local u = read_user()
local s = read_session(u)
local c = read_claim()
call('LLEN', W)
call('ZSCORE', I, sid)

local seq, first = find_turn(s, id)
if seq then return repeated(s, u, c, seq, first) end
-- What had not expired when the turn began goes on although it has by now; what had expired then is replaced.
if s.expired and base.v == NONE then s = no_session(u, s.e) end
if s.v ~= base.v or epoch(s, u) ~= base.e or not is_claimed(c) then return { 'lost' } end
if s.n ~= base.n then corrupt('a number does not follow') end
if s.k >= turns then bounded(T, s.b) end

local changed, count = changed_slots(u)
local reply = { 'stored' }
if u.v ~= base.u then
  local all = read_slots(u)
  for name, value in pairs(changed) do all[name] = value or nil end
  reply = { 'stored', changes_slots and next_u or u.v, flat(all) }
end

append(s)
if u.there or changes_slots then renew_user(u, changed, count) end
call('DEL', C)
wake()
return reply
