"""The two Lua scripts: publishing messages of one topic, and reading a topic's past.

Theory of operation. A topic is three names on Redis that share a hash tag: the channel, a hash ``…:meta`` (``e`` the
epoch, ``s`` the last seq, ``x`` when it expires) and a stream ``…:log``. Publishing is one script (contract 3.2):
nobody can come between the number, the log and the PUBLISH. An entry of the log has the id ``<seq>-<when it expires>``
(Unix ms), so it is found by `seq` and knows its own end. All times are those of Redis, no clock of a host takes part.
"""

from hashlib import sha1
from typing import Final

from shim.core.wire import MAX_SEQ, VERSION


class Script:
    """A Lua script and its name in Redis's script cache."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = sha1(text.encode(), usedforsecurity=False).hexdigest()

    def call(
        self, keys_and_args: tuple[str | bytes | int, ...], *, load: bool = False
    ) -> tuple[str | bytes | int, ...]:
        """The command that runs it on two keys: by name, or with its text, which also puts it into the cache."""
        return ("EVAL", self.text, 2, *keys_and_args) if load else ("EVALSHA", self.sha, 2, *keys_and_args)


# What a script costs is the number of calls and of Lua functions it makes (1 to 2 µs each), much more than what the
# calls do. So a key's time to live is set a quarter longer than it must be, and then left alone until that quarter is
# used up. Entries are not kept longer by it: each knows its own end. For meta, its own field ``x`` says when it ends;
# the log one has to ask, since it can be evicted alone. Numbers are printed with %.0f: Lua's own way begins to say
# 1e+14.

PUBLISH: Final = Script(
    f"""\
local meta, log, ttl = KEYS[1], KEYS[2], tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known = redis.call('HMGET', meta, 'e', 's', 'x')
local epoch, seq, lives_until = known[1], tonumber(known[2]), tonumber(known[3]) or 0
if not epoch or not seq or seq > {MAX_SEQ} - (#ARGV - 5) / 3 then
  epoch, seq, lives_until = ARGV[2], 0, 0
  redis.call('DEL', log)
end
local left, expires, place = redis.call('PTTL', log), string.format('%.0f', now + ttl), nil
local record, records
for i = 6, #ARGV, 3 do
  if record then
    records = records or {{}}
    records[#records + 1] = record
  end
  seq = seq + 1
  place = string.format('%.0f', seq)
  record = '{VERSION}' .. ARGV[i] .. ' ' .. epoch .. ' ' .. place .. ' ' .. ARGV[i + 1] .. '\\n' .. ARGV[i + 2]
  redis.call('XADD', log, 'MAXLEN', '=', ARGV[3], place .. '-' .. expires, 'r', record)
end
if left < ttl then
  left = math.ceil(ttl * 1.25)
  redis.call('PEXPIRE', log, left)
end
local need = math.max(tonumber(ARGV[5]), left)
if lives_until < now + need then
  local life = math.ceil(need * 1.25)
  redis.call('HSET', meta, 'e', epoch, 's', place, 'x', string.format('%.0f', now + life))
  redis.call('PEXPIRE', meta, life)
else
  redis.call('HSET', meta, 's', place)
end
if records then
  for _, earlier in ipairs(records) do
    redis.call('PUBLISH', ARGV[1], earlier)
  end
end
redis.call('PUBLISH', ARGV[1], record)
return {{epoch, seq}}
"""
)
"""KEYS: meta, log. ARGV: channel, epoch to begin if there is none, size, ttl ms, meta ttl ms, then for each message
kind, origin, body. The answer is the position of the last."""

READ: Final = Script(
    """\
local meta, log, want, need, from, after = KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known = redis.call('HMGET', meta, 'e', 's', 'x')
local epoch, seq, lives_until = known[1], tonumber(known[2]), tonumber(known[3]) or 0
local lost = not epoch or not seq
if lost then
  epoch, seq = ARGV[2], 0
elseif want == 'heal' and from == epoch and after > seq then
  lost = true
  epoch, seq = ARGV[2], after
end
if lost or lives_until < now + need then
  local life = math.ceil(need * 1.25)
  local until_then = string.format('%.0f', now + life)
  redis.call('HSET', meta, 'e', epoch, 's', string.format('%.0f', seq), 'x', until_then)
  redis.call('PEXPIRE', meta, life)
end
if lost then
  redis.call('DEL', log)
end
local records = {}
if lost or want == 'position' then
  return {epoch, seq, records}
end

local function is_alive(entry)
  return tonumber(string.match(entry[1], '-(%d+)$')) > now
end
local function seq_of(entry)
  return tonumber(string.match(entry[1], '^(%d+)-'))
end

if want == 'last' then
  local entry = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  while entry and not is_alive(entry) do
    redis.call('XDEL', log, entry[1])
    entry = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  end
  if entry then
    records[1] = entry[2][2]
  end
elseif want == 'after' then
  local missing = seq - after
  if from == epoch and missing > 0 and redis.call('XLEN', log) >= missing then
    local start = string.format('%.0f', after + 1)
    local first = redis.call('XRANGE', log, start, '+', 'COUNT', 1)[1]
    if first and seq_of(first) == after + 1 and is_alive(first) then
      local entries = redis.call('XRANGE', log, start, '+')
      local complete = #entries == missing
      for i, entry in ipairs(entries) do
        complete = complete and is_alive(entry)
        records[i] = entry[2][2]
      end
      if not complete then
        records = {}
      end
    end
  end
elseif want == 'heal' then
  local stop = from == epoch and string.format('%.0f', after + 1) or '-'
  local start, expected, found, going = '+', seq, {}, true
  while going do
    local entries = redis.call('XREVRANGE', log, start, stop, 'COUNT', 32)
    for _, entry in ipairs(entries) do
      going = going and seq_of(entry) == expected and is_alive(entry)
      if going then
        found[#found + 1] = entry[2][2]
        expected = expected - 1
        start = '(' .. entry[1]
      end
    end
    going = going and #entries == 32
  end
  for i = #found, 1, -1 do
    records[#records + 1] = found[i]
  end
end
return {epoch, seq, records}
"""
)
"""KEYS: meta, log. ARGV: want, epoch to begin if there is none, meta ttl ms, epoch and seq of the position after which.

* LAST: the newest entry that has not expired. It need not be the last message: one with a shorter ttl may have come
  after it. Expired ones found on the way are deleted, so the walk is paid for once.
* AFTER: all or nothing (contract 5.3); the hopeless case is found out by counting, before any body is read.
* HEAL: from the end backwards, as far as the run is unbroken and has not expired. Of another epoch than the asker's,
  the asker has seen nothing, so all of the run is new to it. If the asker is ahead of Redis in the same epoch, Redis
  has lost messages (a fail-over): `seq` goes on from the asker's in a new epoch, and nothing of the log is trusted.
"""
