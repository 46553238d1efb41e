"""What the Redis index runs inside the server, so that each change of a block's holders is whole and fenced.

All keys of a call have the hash tag of one model and so are on one slot. KEYS[1] is the hash of the model's holders: slot (8 bytes)
→ "fence live until names", where nothing older than the fence epoch is taken, entries of exactly that epoch count while live is 1,
`until` is the end of the lease (or, when live is 0, of the fence) in the server's milliseconds, and names is JSON for readers. The
other keys are blocks: entries of 16 bytes, slot and epoch, the latest to publish first, one for each slot.
"""

_HOLDERS = """
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
local function parse(record)
  local fence, live, ends, names = string.match(record or '', '^(%d+) (%d) (%d+) (.*)$')
  return tonumber(fence), live == '1', tonumber(ends), names
end
local function store(slot, fence, live, ends, names)
  redis.call('HSET', KEYS[1], slot, string.format('%.0f %d %.0f %s', fence, live, ends, names))
end
local function without(slot, entries, room)
  local kept = {}
  for at = 1, #entries - 15, 16 do
    if #kept < room and string.sub(entries, at, at + 7) ~= slot then
      kept[#kept + 1] = string.sub(entries, at, at + 15)
    end
  end
  return table.concat(kept)
end
local slot, epoch = ARGV[1], tonumber(ARGV[2])
local now = now_ms()
local fence, live, ends = parse(redis.call('HGET', KEYS[1], slot))
if fence and fence > epoch then return -1 end
"""

PUBLISH = (
    _HOLDERS
    + """
local entry, names = ARGV[3], ARGV[4]
local lease, ttl, max_holders = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
store(slot, epoch, 1, now + lease, names)
redis.call('PEXPIRE', KEYS[1], lease)
if #KEYS == 1 then
  local records = redis.call('HGETALL', KEYS[1])
  for i = 1, #records, 2 do
    local other, other_live, other_ends, other_names = parse(records[i + 1])
    if not other or (other_ends <= now and not other_live) then
      redis.call('HDEL', KEYS[1], records[i])
    elseif other_ends <= now then
      store(records[i], other, 0, now + ttl, other_names)
    end
  end
end
for i = 2, #KEYS do
  local others = without(slot, redis.call('GET', KEYS[i]) or '', max_holders - 1)
  redis.call('SET', KEYS[i], entry .. others, 'PX', ttl)
end
if fence == epoch and live and ends > now then return 1 end
return 0
"""
)
"""ARGV: slot, epoch, entry, names, lease, time to live, holders of a block at most. 1: known, 0: new, -1: fenced.

Without blocks it also ends the leases that have passed, so that no reader needs to know the server's time."""

WITHDRAW = (
    _HOLDERS
    + """
for i = 2, #KEYS do
  local entries = redis.call('GET', KEYS[i])
  local kept = without(slot, entries or '', 1e9)
  if entries and kept == '' then
    redis.call('DEL', KEYS[i])
  elseif entries then
    redis.call('SET', KEYS[i], kept, 'KEEPTTL')
  end
end
return 1
"""
)
"""ARGV: slot, epoch."""

DROP = (
    _HOLDERS
    + """
store(slot, epoch + 1, 0, now + tonumber(ARGV[4]), ARGV[3])
if redis.call('PTTL', KEYS[1]) < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
return 1
"""
)
"""ARGV: slot, epoch, names, time to live of the fence."""
