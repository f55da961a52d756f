-- What stands under a key, in one look that changes nothing: its type, and of a list the newest elements, which come first.
-- ARGV: most elements; most bytes of one, of which only the length is told if it has more; most bytes of all.
-- Returns the type, whether elements were left out because they were too many bytes in all, and the elements.
local kind = redis.call('TYPE', KEYS[1]).ok
local reply = {kind, 0}
if kind ~= 'list' then return reply end
local one, all = tonumber(ARGV[2]), tonumber(ARGV[3])
for i = 0, tonumber(ARGV[1]) - 1 do
  local element = redis.call('LINDEX', KEYS[1], i)
  if not element then break end
  if #element > one then
    element = #element
  else
    all = all - #element
    if all < 0 then
      reply[2] = 1
      break
    end
  end
  reply[#reply + 1] = element
end
return reply
