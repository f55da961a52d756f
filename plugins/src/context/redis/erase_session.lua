-- Erases a session's turns and slots. Its number and expiry stay, a new version and epoch show that it was erased, also if it was not there,
-- and for as long as turns are kept.
--
-- ARGV  time, ms to keep, the new version and epoch
local read_u, u = pcall(read_user)
if not read_u then u = { e = NONE } end
local read, s = pcall(read_session, u)
if not read or s.expired then s = no_session(u) end

s.v, s.k, s.b, s.e = ARGV[3], 0, 0, ARGV[3]
local keep = tonumber(ARGV[2])
if s.x <= now then s.x = now + keep end
local left = math.max(s.x - now, keep)
call('UNLINK', S, T, C)
write_session(s)
call('PEXPIRE', S, left) -- that it was erased is known for longer than it is there
if u.there then outlive(U, left) end
wake_or_remove()
