-- What the scripts have in common; it stands before each of them.
--
-- KEYS  user, index, session, turns, claim, waiting. ARGV[1] is the time in ms, empty for the server's own.
-- Reads come first and check what they find, writes follow: a script that fails has written nothing.
local U, I, S, T, C, W = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]

local NONE = ('0'):rep(16) -- the version, or epoch, of what is not there
local MAX_HEAD = 256       -- bytes
local MAX_SLOTS = 64
local MAX_HASH = 5000 * MAX_SLOTS -- bytes of slots
local MAX_JOURNAL = 256 * 1024    -- bytes

local call = redis.call
local clock = call('TIME')
local micros = clock[1] * 1000000 + clock[2]
local now = tonumber(ARGV[1]) or math.floor(micros / 1000)

local function corrupt(what)
  error(redis.error_reply('CORRUPT ' .. what))
end

-- What scripts read and write stands after a checksum over it and its place.
local function seal(place, value)
  return redis.sha1hex(place .. '\0' .. value):sub(1, 16) .. value
end

local function unseal(place, sealed)
  local value = sealed:sub(17)
  if seal(place, value) ~= sealed then corrupt('a checksum is wrong') end
  return value
end

-- Refuses a value, before it is read, that takes more memory than one of so many bytes can with all that is around them.
local function bounded(key, bytes)
  if (call('MEMORY', 'USAGE', key, 'SAMPLES', 0) or 0) > 2 * bytes + 65536 then corrupt('a value is too large') end
end

-- Has a key live so many ms at least.
local function outlive(key, ms)
  if call('PTTL', key) < ms then call('PEXPIRE', key, ms) end
end

-- The head of a session or user: its hash's field `h`. Nothing if there is no such hash.
local function head(key)
  local size = call('HSTRLEN', key, 'h')
  if size == 0 and call('EXISTS', key) == 0 then return nil end
  if size == 0 or size > MAX_HEAD then corrupt('a head is none') end
  return unseal(key, call('HGET', key, 'h'))
end

-- The user: epoch, version and number of the slots, their expiry. The epoch stands until the key is gone, the slots expire before.
local function read_user()
  local value = head(U)
  if not value then return { e = NONE, v = NONE, k = 0, x = 0 } end
  local e, v, k, x = value:match('^(%x+) (%x+) (%d+) (%d+)$')
  if not e then corrupt('a user cannot be read') end
  local u = { e = e, v = v, k = tonumber(k), x = tonumber(x), there = true }
  u.expired = u.x <= now
  if u.expired then
    u.v, u.k = NONE, 0
  elseif call('HLEN', U) ~= u.k + 1 then
    corrupt('slots are missing')
  end
  return u
end

local function write_user(u)
  call('HSET', U, 'h', seal(U, ('%s %s %d %.0f'):format(u.e, u.v, u.k, u.x)))
end

-- The session: version, number of the newest turn, count and bytes of the kept ones, its own epoch, the user's epoch it is of, its expiry.
-- What was erased is known as that beyond its expiry, as a turn from before may still wait somewhere.
local function no_session(u, e)
  return { v = NONE, n = 0, k = 0, b = 0, e = e or NONE, u = u.e, x = 0 }
end

-- The session as it stands, expired or not. One of an older epoch of its user reads as erased: only its number goes on. Its version
-- is another one then, for a failover can bring back what stood there before, and nobody may take one for the other.
local function read_session(u)
  local value = head(S)
  if not value then
    if call('EXISTS', T) == 1 then corrupt('turns have no session') end
    return no_session(u)
  end
  local v, n, k, b, e, of, x = value:match('^(%x+) (%d+) (%d+) (%d+) (%x+) (%x+) (%d+)$')
  if not v then corrupt('a session cannot be read') end
  local s = { v = v, n = tonumber(n), k = tonumber(k), b = tonumber(b), e = e, u = of, x = tonumber(x) }
  s.expired = s.x <= now
  if of == u.e then
    if call('LLEN', T) ~= 2 * s.k then corrupt('turns are missing') end
  elseif u.there or s.expired then
    s.v, s.k, s.b, s.e, s.u = u.e, 0, 0, NONE, u.e
  else
    corrupt('the user is missing')
  end
  return s
end

local function write_session(s)
  call('HSET', S, 'h', seal(S, ('%s %.0f %d %.0f %s %s %.0f'):format(s.v, s.n, s.k, s.b, s.e, s.u, s.x)))
end

-- Changes with each erasure of the session or of its user.
local function epoch(s, u)
  return s.e ~= NONE and s.e or u.e
end

-- Whether a session has no record, and neither it nor the user was erased as long as that is known.
local function is_new(s, u)
  return u.e == NONE and s.e == NONE and (s.v == NONE or s.expired)
end

-- The claim: fence, lapse, the epoch it is of, the name that its beginner gave it. One that was given up has lapsed at 0.
local function read_claim()
  local sealed = call('GETRANGE', C, 0, MAX_HEAD)
  if sealed == '' then return nil end
  local fence, till, e, name = unseal(C, sealed):match('^(%d+) (%d+) (%x+) (%x+)$')
  if not fence then corrupt('a claim cannot be read') end
  return { fence = fence, till = tonumber(till), e = e, name = name }
end

local function sealed_claim(c)
  return seal(C, ('%s %.0f %s %s'):format(c.fence, c.till, c.e, c.name))
end

-- Tells the gateway that is first in line that the session is free.
local function wake()
  for _ = 1, 8 do
    local gateway = call('LPOP', W)
    if not gateway then return end
    if #gateway == 16 and not gateway:find('%X') then
      call('PUBLISH', 'fengda:wake:' .. gateway, W)
      return
    end
  end
end

-- The same for a session that is erased, with whatever stands there.
local function wake_or_remove()
  if not pcall(wake) then call('UNLINK', W) end
end

-- The kept turn that a message made: its number and record.
local function find_turn(s, id)
  local at = s.k > 0 and not s.expired and call('LPOS', T, id, 'RANK', -1)
  if not at then return nil end
  bounded(T, s.b)
  return s.n - s.k + 1 + at / 2, call('LINDEX', T, at + 1)
end

-- The user's slots by name.
local function read_slots(u)
  local slots = {}
  if u.k == 0 then return slots end
  bounded(U, MAX_HASH)
  local all = call('HGETALL', U)
  for i = 1, #all, 2 do
    if all[i] ~= 'h' then slots[all[i]:sub(2)] = unseal(U .. all[i], all[i + 1]) end
  end
  return slots
end

-- The same as a reply has them.
local function flat(slots)
  local list = {}
  for name, value in pairs(slots) do
    list[#list + 1] = name
    list[#list + 1] = value
  end
  return list
end

-- Whether a caller has this already. What is not there has no version that could tell.
local function is_known(s, u, v, user_v)
  return s.v ~= NONE and v == s.v and user_v == u.v
end

-- How many of the kept turns a caller lacks whose session was in version `v`, with `n` for its newest turn's number. If the turn of
-- that number was written as that version, all that came later came on top of it, and the turns before it are the caller's too.
local function lacking(s, v, n)
  local back = s.n - n
  if back < 0 or back >= s.k then return s.k end
  return call('LINDEX', T, -2 * back - 1):sub(-16) == v and back or s.k
end

-- A session that is not expired, as a reply has it: with those of its turns that a caller lacks who has version `v`, number `n`.
local function state(s, u, turns, v, n)
  local flow, kept, records = '', math.min(s.k, turns), {}
  if s.k > 0 then
    bounded(S, MAX_HASH + MAX_JOURNAL)
    bounded(T, s.b)
    flow = call('HGET', S, 'd') or corrupt('what the flow keeps is missing')
    local missing = math.min(lacking(s, v, n), kept)
    if missing > 0 then records = call('LRANGE', T, -2 * missing, -1) end
  end
  return { s.v, u.v, epoch(s, u), s.n, kept, flow, records, flat(read_slots(u)) }
end

