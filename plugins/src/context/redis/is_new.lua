-- Says whether a session is new.
--
-- ARGV  time
-- ->    'new' or 'old'
local u = read_user()
return { is_new(read_session(u), u) and 'new' or 'old' }
