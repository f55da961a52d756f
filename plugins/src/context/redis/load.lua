-- Reads a session.
--
-- ARGV  time, turns, known version, known version of the user
-- ->    unchanged | state, state
local u = read_user()
local s = read_session(u)
if s.expired then s = no_session(u) end
if ARGV[3] == s.v and ARGV[4] == u.v then return { 'unchanged' } end
return { 'state', state(s, u, tonumber(ARGV[2])) }
