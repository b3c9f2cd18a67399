"""The fleet's moves on Redis: one hash, ``<prefix>:moves`` (contract 8.5). Pure: a command and what its answer means.

Fields: ``round``, the number of the last round in which somebody announced moves; ``now`` and ``next``, how many were
announced for that round and for the one after it; ``spare``, which of that round's slots nobody has yet. A few seconds
after the last move nothing of it is left. The rounds are those of Redis's clock; `shim.core.fleet` says what they are
for.
"""

from typing import Final

from shim.bus.commands import Command, ms
from shim.core.errors import RealtimeUnavailable, shown
from shim.core.fleet import ROUND_SECONDS, Announcement, Round

# A round that nobody knows of has nothing announced: the hash is new, or Redis's clock was set.
ANNOUNCE: Final = """\
local length, wanted, claimed, rate = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local round = math.floor(now / length)
local known = redis.call('HMGET', KEYS[1], 'round', 'now', 'next', 'spare')
local total, place, spare = 0, 0, 0
if tonumber(known[1]) == round then
  total, place, spare = tonumber(known[2]), tonumber(known[3]), tonumber(known[4] or 0)
elseif tonumber(known[1]) == round - 1 then
  total = tonumber(known[3])
end
local given = -1
if claimed ~= round then
  local slots = math.ceil((round + 1) * rate) - math.ceil(round * rate)
  local free = math.max(total, spare, math.ceil((now - round * length) * slots / length))
  if free < slots then
    given, spare = free, free + 1
  end
end
redis.call('HSET', KEYS[1], 'round', string.format('%.0f', round), 'now', total, 'next', place + wanted, 'spare', spare)
redis.call('PEXPIRE', KEYS[1], 10 * length)
return {round, now - round * length, total, place, given}
"""
"""KEYS: the hash. ARGV: a round's length in ms; the moves that are wanted in the next one; the last round for which the
caller has announced some; the moves of one round by the fleet's rate."""


def announce_command(prefix: str, said: Announcement) -> Command:
    """Announce how many connections could be moved in the next round."""
    a_round = repr(said.rate * ROUND_SECONDS)
    return ("EVAL", ANNOUNCE, 1, f"{prefix}:moves", ms(ROUND_SECONDS), said.wanted, said.claimed, a_round)


def round_from(reply: object) -> Round:
    """The round that `announce_command` met.

    Raises:
        RealtimeUnavailable: not an answer to it.
    """
    match reply:
        case [int(number), int(elapsed), int(total), int(place), int(spare)]:
            return Round(number, elapsed / 1000, total, place, spare)
        case _:
            raise RealtimeUnavailable(f"Redis told no round of moves, but {shown(reply)}")
