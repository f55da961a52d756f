-- Gives a claimed session that is new its first turns. The claim stands.
--
-- ARGV  time, fence, number of the newest turn, the session's new version, what its flow keeps, ms to keep, its id, then id and record of each turn
-- ->    lost | old | imported, user's version, user's slots
local keep, FIRST = tonumber(ARGV[6]), 8
local bytes = 0
for i = FIRST, #ARGV do bytes = bytes + #ARGV[i] end

local u = read_user()
local s = read_session(u)
local c = read_claim()
call('ZSCORE', I, ARGV[7])
if not c or c.fence ~= ARGV[2] or c.till <= now then return { 'lost' } end
if c.e ~= epoch(s, u) then return { 'lost' } end
if not is_new(s, u) then return { 'old' } end
local slots = flat(read_slots(u))

-- All is read; from here on it is written.
call('UNLINK', S, T)
call('RPUSH', T, unpack(ARGV, FIRST))
s = no_session(u)
s.v, s.n, s.k, s.b, s.x = ARGV[4], tonumber(ARGV[3]), (#ARGV - FIRST + 1) / 2, bytes, now + keep
write_session(s)
call('HSET', S, 'd', ARGV[5])
call('PEXPIRE', S, keep)
call('PEXPIRE', T, keep)
call('ZADD', I, s.x, ARGV[7])
outlive(I, keep)
return { 'imported', u.v, slots }
