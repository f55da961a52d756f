-- Reads a session.
--
-- ARGV  time, turns, version, user's version and number of the state that the caller has
-- ->    unchanged | state, state
local turns, v, user_v, n = unpack(ARGV, 2, 5)
local u = read_user()
local s = read_session(u)
if s.expired then s = no_session(u, s.e) end
if is_known(s, u, v, user_v) then return { 'unchanged' } end
return { 'state', state(s, u, tonumber(turns), v, tonumber(n)) }
