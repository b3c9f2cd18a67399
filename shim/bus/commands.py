"""What is said to Redis, and what its answers mean: the scripts, the arguments, the parsing. Pure: no I/O.

Theory of operation. A topic is three names on Redis that share a hash tag: the channel, a hash ``…:meta`` (``e`` the
epoch, ``s`` the last seq, ``x`` when it expires) and a stream ``…:log``. Publishing is one script (contract 3.2):
nobody can come between the number, the log and the PUBLISH. An entry of the log has the id ``<seq>-<when it expires>``
(Unix ms), so it is found by `seq` and knows its own end. All times are those of Redis, no clock of a host takes part.

An *exchange* is a generator: it yields commands to send, is sent their answers in the same order, and returns the
result. An answer that is an error is handed in as the exception object. The two drivers (`shim.bus.sync` and
`shim.bus.asyncio`) do nothing but carry exchanges, so what is said to Redis is decided here, once (contract 3.4).
"""

import json
import logging
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha1
from secrets import token_hex
from typing import Final, NoReturn, cast

from redis.exceptions import InvalidResponse, NoScriptError

from shim.core.errors import WireError, shown
from shim.core.history import History, ReadRequest, ReadResult, Want
from shim.core.message import Kind
from shim.core.names import Topic
from shim.core.wire import MAX_SEQ, NOBODY, VERSION, Position, Record, decode, encode

META_TTL: Final = 86_400.0
"""Seconds that a topic's epoch and seq outlive its last use.

They must outlive the position that an idle connection holds, or the first message after a quiet night would look like
a lost history. Every read refreshes them too. A day also covers a laptop that sleeps overnight and then resumes.
"""

SUBSCRIBE_CHUNK: Final = 512  # channels in one command: Redis answers between two commands, never within one

type Argument = str | bytes | int
type Command = tuple[Argument, ...]
type Exchange[T] = Generator[Sequence[Command], Sequence[object], T]

type Outgoing = tuple[Topic, Kind, bytes, History, str | None]
"""A message to publish: topic, kind, body, history, origin."""

logger = logging.getLogger(__name__)

_EPOCH: Final = re.compile(r"[0-9a-f]{16}")
_PREFIX: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_ORIGIN: Final = re.compile(r"[!-~]{1,128}")


class Script:
    """A Lua script and its name in Redis's script cache."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = sha1(text.encode(), usedforsecurity=False).hexdigest()

    def call(self, keys_and_args: Command, *, load: bool = False) -> Command:
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
if not epoch or not seq or seq >= {MAX_SEQ} then
  epoch, seq, lives_until = ARGV[2], 0, 0
  redis.call('DEL', log)
end
seq = seq + 1
local place = string.format('%.0f', seq)
local record = '{VERSION}' .. ARGV[6] .. ' ' .. epoch .. ' ' .. place .. ' ' .. ARGV[7] .. '\\n' .. ARGV[8]
local left = redis.call('PTTL', log)
redis.call('XADD', log, 'MAXLEN', '=', ARGV[3], place .. '-' .. string.format('%.0f', now + ttl), 'r', record)
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
redis.call('PUBLISH', ARGV[1], record)
return {{epoch, seq}}
"""
)
"""KEYS: meta, log. ARGV: channel, epoch to begin if there is none, size, ttl ms, meta ttl ms, kind, origin, body."""

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


def new_epoch() -> str:
    """A name for an epoch that nobody has used: a repeated one would make old positions look valid."""
    return token_hex(8)


def ms(seconds: float) -> int:
    """Seconds as whole milliseconds, 1 at least."""
    return max(1, round(seconds * 1000))


@dataclass(frozen=True, slots=True)
class Commands:
    """What a bus says to Redis.

    Args:
        prefix: first part of all Redis names (`REALTIME_PREFIX`): 1 to 64 of ASCII letters, digits and ``_.:-``.
        meta_ttl: seconds that a topic's epoch and seq outlive its last use.
        epoch: makes names for epochs.

    Raises:
        ValueError: the prefix or the ttl is not one.
    """

    prefix: str
    meta_ttl: float = META_TTL
    epoch: Callable[[], str] = new_epoch

    def __post_init__(self) -> None:
        if not isinstance(self.prefix, str) or not _PREFIX.fullmatch(self.prefix):
            raise ValueError(
                f"REALTIME_PREFIX is 1 to 64 ASCII letters, digits, '_', '.', ':' or '-', not {shown(self.prefix)}"
            )
        if not self.meta_ttl > 0:
            raise ValueError(f"meta_ttl is a positive number of seconds, not {self.meta_ttl!r}")

    @property
    def control_channel(self) -> str:
        """The channel of control messages."""
        return f"{self.prefix}:control"

    def publish(self, outgoing: Outgoing) -> Exchange[Position | None]:
        """Publish one message: its position, or None if it has no history (contract 5.1)."""
        history = outgoing[3]
        if not history.size:
            (reply,) = yield [self._plain(outgoing)]
            _checked(reply)
            return None
        arguments = self._arguments(outgoing)
        (reply,) = yield [PUBLISH.call(arguments)]
        if isinstance(reply, NoScriptError):  # it did not run, so this is not a second publish (contract 3.1)
            (reply,) = yield [PUBLISH.call(arguments, load=True)]
        return _position(reply)

    def publish_many(self, messages: Iterable[Outgoing]) -> Exchange[list[Position | None]]:
        """Publish messages in their order, in one round trip: their positions.

        The first script call carries the text, so that the ones behind it in the pipeline find it in the cache: with
        names only, an empty cache would refuse all and they would have to be sent again, out of order with the plain
        ones between them (contract 3.2).
        """
        outgoing = list(messages)
        if not outgoing:
            return []
        scripted = [message[3].size > 0 for message in outgoing]
        first = scripted.index(True) if True in scripted else None
        arguments = [
            self._arguments(message) if by_script else self._plain(message)
            for message, by_script in zip(outgoing, scripted, strict=True)
        ]
        replies = list(
            (
                yield [
                    PUBLISH.call(args, load=index == first) if by_script else args
                    for index, (args, by_script) in enumerate(zip(arguments, scripted, strict=True))
                ]
            )
        )
        # Only when somebody flushed the cache in the middle of our pipeline. They did not run.
        refused = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if refused:
            again = yield [PUBLISH.call(arguments[index], load=True) for index in refused]
            for index, reply in zip(refused, again, strict=True):
                replies[index] = reply
        for reply in replies:
            _checked(reply)
        return [_position(reply) if by_script else None for reply, by_script in zip(replies, scripted, strict=True)]

    def read_many(self, requests: Iterable[ReadRequest]) -> Exchange[list[ReadResult]]:
        """Answer questions about topics' pasts, in one round trip."""
        asked = list(requests)
        if not asked:
            return []
        arguments = [self._question(request) for request in asked]
        replies = list((yield [READ.call(args) for args in arguments]))
        refused = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if refused:
            again = yield [READ.call(arguments[index], load=True) for index in refused]
            for index, reply in zip(refused, again, strict=True):
                replies[index] = reply
        return [_result(request, reply) for request, reply in zip(asked, replies, strict=True)]

    def control(self, message: Mapping[str, object]) -> Exchange[None]:
        """Publish a control message, JSON, to every process."""
        body = json.dumps(message, allow_nan=False, separators=(",", ":"))
        (reply,) = yield [("PUBLISH", self.control_channel, body)]
        _checked(reply)

    def execute(self, command: Command) -> Exchange[object]:
        """Send one command as it is; the answer as Redis gave it."""
        (reply,) = yield [command]
        return _checked(reply)

    def ping(self) -> Exchange[None]:
        """Ask whether Redis is there."""
        (reply,) = yield [("PING",)]
        _checked(reply)

    def _plain(self, outgoing: Outgoing) -> Command:
        topic, kind, body, _, origin = outgoing
        record = Record(kind, body, None, _origin(origin))
        return ("PUBLISH", topic.channel(self.prefix), encode(record))

    def _arguments(self, outgoing: Outgoing) -> Command:
        topic, kind, body, history, origin = outgoing
        channel = topic.channel(self.prefix)
        return (
            channel + ":meta",
            channel + ":log",
            channel,
            self.epoch(),
            history.size,
            ms(history.ttl),
            ms(self.meta_ttl),
            kind.value,
            _origin(origin) or NOBODY,
            body,
        )

    def _question(self, request: ReadRequest) -> Command:
        epoch, seq = _trusted(request.after)
        want = request.want
        if not epoch and want is not Want.LAST:
            want = Want.POSITION  # there is nothing to be after
        return (
            request.channel + ":meta",
            request.channel + ":log",
            want.value,
            self.epoch(),
            ms(self.meta_ttl),
            epoch,
            seq,
        )


def subscriptions(verb: str, channels: Iterable[str]) -> Iterator[Command]:
    """SUBSCRIBE or UNSUBSCRIBE commands for any number of channels; none for none (that would mean *all* of them)."""
    names = list(channels)
    for start in range(0, len(names), SUBSCRIBE_CHUNK):
        yield (verb, *names[start : start + SUBSCRIBE_CHUNK])


def heard(reply: object) -> tuple[str, bytes | None] | None:
    """What a subscription was told: channel and message, or channel and None for a confirmed SUBSCRIBE.

    None for all that only shows that Redis is alive: answers to PING, confirmed UNSUBSCRIBEs.

    Raises:
        RedisError: it was an error.
    """
    match _checked(reply):
        case [b"message", bytes(channel), bytes(data)]:
            return channel.decode(), data
        case [b"subscribe", bytes(channel), _]:
            return channel.decode(), None
    return None


def _origin(origin: str | None) -> str | None:
    if origin is not None and not _ORIGIN.fullmatch(origin):
        raise ValueError(f"an origin is a connection id of 1 to 128 visible ASCII characters, not {shown(origin)}")
    return origin


def _trusted(after: Position | None) -> Position:
    """A position as it may go to Redis: clients send any they like (contract 5.3), so what cannot be one is none."""
    if after is not None:
        epoch, seq = after
        if (
            isinstance(epoch, str)
            and isinstance(seq, int)
            and _EPOCH.fullmatch(epoch)
            and 0 <= seq < MAX_SEQ  # below, because the scripts go on to the next one
        ):
            return Position(epoch, int(seq))
    return Position("", 0)


def _checked(reply: object) -> object:
    if isinstance(reply, Exception):
        raise reply
    return reply


def _position(reply: object) -> Position:
    try:
        epoch, seq = cast("tuple[bytes, int]", _checked(reply))
        return Position(epoch.decode("ascii"), int(seq))
    except (TypeError, ValueError, AttributeError):
        _not_an_answer(reply)


def _result(request: ReadRequest, reply: object) -> ReadResult:
    try:
        epoch, seq, records = cast("tuple[bytes, int, list[bytes]]", _checked(reply))
        position = Position(epoch.decode("ascii"), int(seq))
    except (TypeError, ValueError, AttributeError):
        _not_an_answer(reply)
    try:
        return ReadResult(request.channel, position, tuple(decode(record) for record in records))
    except WireError:
        # Of a newer version, in the middle of an update, or not ours: as good as expired. One topic's log must not
        # stop the reads of others.
        logger.exception("The history of %s holds a record that cannot be read; none of it is used", request.channel)
        return ReadResult(request.channel, position)


def _not_an_answer(reply: object) -> NoReturn:
    raise InvalidResponse(f"not an answer of the script: {shown(reply)}") from None
