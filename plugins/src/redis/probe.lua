#!lua
-- Whether a write would be taken now. ARGV: commands that the user must be allowed, with the keys and channels that they are for.
local denied = {}
for _, command in ipairs(ARGV) do
  local words = {}
  for word in command:gmatch('%S+') do words[#words + 1] = word end
  if not redis.acl_check_cmd(unpack(words)) then denied[#denied + 1] = command end
end
if #denied > 0 then return redis.error_reply('NOPERM the user has no right to ' .. table.concat(denied, ', ')) end
return 1
