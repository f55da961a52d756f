-- Appends a turn, changes slots, renews the expiry and gives up the claim.
--
-- ARGV  time, turns, bytes, message id, fence, '1' if the claim has lapsed by the caller's clock, the version, user's version, epoch and
--       number that the turn began with, the new version, the user's new version, the turn's record, the session's slots, ms to keep,
--       the session's id, then for each change of a user's slot: 'set', 'add' or 'remove', name, value
-- ->    repeated, seq, record, state | lost | stored[, user's version, user's slots]
local turns, bytes, id, keep, sid = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[15]), ARGV[16]
local CHANGES = 17

local u = read_user()
local s = read_session(u)
local c = read_claim()
local mine = c and c.fence == ARGV[5]
call('LLEN', W)
call('ZSCORE', I, sid)

local seq, record = find_turn(s, id, bytes)
if seq then
  local reply = { 'repeated', seq, record, state(s, u, turns, bytes) }
  if mine and c.till > 0 then
    call('DEL', C)
    wake()
  end
  return reply
end

-- What had not expired when the turn began goes on although it has by now; what had expired then is replaced.
if s.expired and ARGV[7] == NONE then s = no_session(u) end
if s.v ~= ARGV[7] or epoch(s, u) ~= ARGV[9] then return { 'lost' } end
if s.n ~= tonumber(ARGV[10]) then corrupt('a number does not follow') end
-- A claim that is gone without having lapsed went with a server: if nobody wrote and nobody else claims, the turn is as good.
if c then
  if not mine or c.till <= now or c.e ~= ARGV[9] then return { 'lost' } end
elseif ARGV[6] == '1' then
  return { 'lost' }
end

-- The user's slots that change, by name; false for one that goes.
local changed, count = {}, u.k
local function present(name)
  if changed[name] ~= nil then return changed[name] end
  if u.expired or call('HSTRLEN', U, ':' .. name) == 0 then return false end
  return unseal(U .. ':' .. name, call('HGET', U, ':' .. name))
end
local function added(before, by)
  if not before then return by end
  if before:byte() ~= 1 then return nil end
  return '\1' .. struct.pack('<d', struct.unpack('<d', before, 2) + struct.unpack('<d', by, 2))
end
if u.k > 0 then bounded(U, MAX_HASH) end
for i = CHANGES, #ARGV, 3 do
  local change, name, value = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local before = present(name)
  if change == 'remove' then
    value = false
  elseif not before and count >= MAX_SLOTS then
    value = nil
  elseif change == 'add' then
    value = added(before, value)
  end
  if value ~= nil then
    count = count + (value and 1 or 0) - (before and 1 or 0)
    changed[name] = value
  end
end

local reply = { 'stored' }
if u.v ~= ARGV[8] then
  local slots = read_slots(u)
  for name, value in pairs(changed) do slots[name] = value or nil end
  reply = { 'stored', #ARGV >= CHANGES and ARGV[12] or u.v, flat(slots) }
end

-- All is read; from here on it is written.
if s.k == 0 then call('UNLINK', T) end
call('RPUSH', T, id, ARGV[13])
call('LTRIM', T, -2 * turns, -1)
s.v, s.n, s.k, s.x = ARGV[11], s.n + 1, math.min(s.k + 1, turns), now + keep
write_session(s)
call('HSET', S, 'd', ARGV[14])
call('PEXPIRE', S, keep)
call('PEXPIRE', T, keep)

if u.there or #ARGV >= CHANGES then
  if u.expired then call('DEL', U) end
  for name, value in pairs(changed) do
    if value then
      call('HSET', U, ':' .. name, seal(U .. ':' .. name, value))
    else
      call('HDEL', U, ':' .. name)
    end
  end
  if #ARGV >= CHANGES then u.v = ARGV[12] end
  u.k, u.x = count, now + keep
  write_user(u)
  outlive(U, keep)
end

for _, old in ipairs(call('ZRANGE', I, '-inf', now, 'BYSCORE', 'LIMIT', 0, 16)) do call('ZREM', I, old) end
call('ZADD', I, s.x, sid)
outlive(I, keep)
call('DEL', C)
wake()
return reply
