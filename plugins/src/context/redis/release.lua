-- Gives up a claim, by its fence or by its name. What is left of it says so until it would have lapsed.
--
-- ARGV  time, fence, name
local c = read_claim()
if c and c.till > 0 and (c.fence == ARGV[2] or c.name == ARGV[3]) then
  c.till = 0
  call('SET', C, sealed_claim(c), 'KEEPTTL')
  wake()
end
