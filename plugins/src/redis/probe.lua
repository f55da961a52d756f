#!lua
-- Whether a write would be taken now. A member of a cluster that is down runs scripts without keys all the same, and is asked.
--
-- ARGV  commands that the user must be allowed, with the keys and channels that they are for
local denied, is_member = {}, false
for _, command in ipairs(ARGV) do
  local words = {}
  for word in command:gmatch('%S+') do words[#words + 1] = word end
  if not redis.acl_check_cmd(unpack(words)) then denied[#denied + 1] = command end
  is_member = is_member or command == 'CLUSTER INFO'
end
if #denied > 0 then return redis.error_reply('NOPERM the user has no right to ' .. table.concat(denied, ', ')) end
if is_member and not redis.call('CLUSTER', 'INFO'):find('cluster_state:ok', 1, true) then
  return redis.error_reply('CLUSTERDOWN the cluster is down')
end
return 1
