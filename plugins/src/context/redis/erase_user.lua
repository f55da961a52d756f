-- Erases all of a user's sessions and slots: at once for whoever reads, then step by step for good.
--
-- KEYS  user, index, then session, turns, claim and waiting of each session that is to be cleaned
-- ARGV  time, ms to keep, the new epoch in the first step, where to go on in the index ('' at its end), the ids of the sessions to be cleaned
-- ->    where to go on, ids of sessions
if ARGV[3] ~= '' then
  local left = math.max(tonumber(ARGV[2]), call('PTTL', U), call('PTTL', I))
  call('UNLINK', U)
  write_user({ e = ARGV[3], v = ARGV[3], k = 0, x = now + tonumber(ARGV[2]) })
  call('PEXPIRE', U, left)
  if call('TYPE', I).ok ~= 'zset' then call('UNLINK', I) end
end

local u = read_user()
for i = 0, #ARGV - 5 do
  S, T, C, W = KEYS[3 + 4 * i], KEYS[4 + 4 * i], KEYS[5 + 4 * i], KEYS[6 + 4 * i]
  local value_read, value = pcall(head, S)
  local older = not value_read or not value or value:match('(%x+) %d+$') ~= u.e
  if older then
    local read, s = pcall(read_session, u)
    local left = read and call('PTTL', S) or 0
    call('UNLINK', S, T)
    if left > 0 and not s.expired then
      write_session(s)
      call('PEXPIRE', S, left)
    else
      call('ZREM', I, ARGV[5 + i])
    end
  end
  local claim_read, c = pcall(read_claim)
  if not claim_read or (c and older and c.e ~= u.e) then call('UNLINK', C) end
  wake_or_remove()
end

if ARGV[4] == '' then return { '', {} } end
local page = call('ZSCAN', I, ARGV[4], 'COUNT', 64)
local ids = {}
for i = 1, #page[2], 2 do ids[#ids + 1] = page[2][i] end
return { page[1] == '0' and '' or page[1], ids }
