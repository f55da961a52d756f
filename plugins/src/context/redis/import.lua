-- Gives a claimed session its first turns, if it is new or still as it was when it awaited them. The claim stands.
--
-- ARGV  time, fence, the version that it awaited them at, or none; number of the newest turn, the session's new version, what its flow keeps,
--       ms to keep, its id, then id and record of each turn
-- ->    lost | old | imported, user's version, user's slots
local base, keep, FIRST = ARGV[3], tonumber(ARGV[7]), 9
local bytes = 0
for i = FIRST, #ARGV do bytes = bytes + #ARGV[i] end

local u = read_user()
local s = read_session(u)
local c = read_claim()
call('ZSCORE', I, ARGV[8])
if not c or c.fence ~= ARGV[2] or c.till <= now then return { 'lost' } end
if c.e ~= epoch(s, u) then return { 'lost' } end
if base == NONE then
  if not is_new(s, u) then return { 'old' } end
  s = no_session(u)
elseif s.v ~= base or s.expired then
  return { 'old' }
end
local slots = flat(read_slots(u))

-- All is read; from here on it is written.
call('UNLINK', S, T)
call('RPUSH', T, unpack(ARGV, FIRST))
s.v, s.n, s.k, s.b, s.x = ARGV[5], tonumber(ARGV[4]), (#ARGV - FIRST + 1) / 2, bytes, now + keep
write_session(s)
call('HSET', S, 'd', ARGV[6])
call('PEXPIRE', S, keep)
call('PEXPIRE', T, keep)
call('ZADD', I, s.x, ARGV[8])
outlive(I, keep)
return { 'imported', u.v, slots }
