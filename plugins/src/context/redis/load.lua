-- Reads a session.
--
-- ARGV  time, turns, version, user's version and number of the state that the caller has
-- ->    unchanged | state, state
local u = read_user()
local s = read_session(u)
if s.expired then s = no_session(u, s.e) end
if is_known(s, u, ARGV[3], ARGV[4]) then return { 'unchanged' } end
return { 'state', state(s, u, tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[5])) }
