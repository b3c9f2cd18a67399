"""What is said to Redis, and what its answers mean. Pure: no I/O.

The scripts, and how a topic is kept, are in `shim.bus.scripts`.

An *exchange* is a generator: it yields commands to send, is sent their answers in the same order, and returns the
result. An answer that is an error is handed in as the exception object. The two drivers (`shim.bus.sync` and
`shim.bus.asyncio`) do nothing but carry exchanges, so what is said to Redis is decided here, once (contract 3.4).
"""

import json
import logging
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from os import urandom
from typing import Final, NamedTuple, NoReturn, cast

from redis.exceptions import InvalidResponse, NoScriptError

from shim.bus.scripts import PUBLISH, READ
from shim.core.errors import WireError, shown
from shim.core.history import History, ReadRequest, ReadResult, Want
from shim.core.kept import STATE_SECONDS, Save
from shim.core.message import Kind
from shim.core.names import Topic, control_channel
from shim.core.wire import MAX_SEQ, NOBODY, Position, decode, encode_bare

META_TTL: Final = 86_400.0
"""Seconds that a topic's epoch and seq outlive its last use.

They must outlive the position that an idle connection holds, or the first message after a quiet night would look like
a lost history. Every read refreshes them too. A day also covers a laptop that sleeps overnight and then resumes.
"""

CONTROL_HISTORY: Final = History(1_000, 600.0)
"""So many control messages, of so many seconds, reach a process whose subscription was down."""

RUN_MESSAGES: Final = 100
RUN_BYTES: Final = 1_048_576
"""What one call of the publish script carries at most: Redis does nothing else meanwhile."""

SUBSCRIBE_CHUNK: Final = 512  # channels in one command: Redis answers between two commands, never within one

type Argument = str | bytes | int
type Command = tuple[Argument, ...]
type Exchange[T] = Generator[Sequence[Command], Sequence[object], T]

type Past = tuple[list[ReadResult], bytes | None]
"""What a connection that joins is told: its topics' pasts, and the state that it takes over."""

type Outgoing = tuple[Topic, Kind, bytes, History, str | None]
"""A message to publish: topic, kind, body, history, origin."""

logger = logging.getLogger(__name__)

_EPOCH: Final = re.compile(r"[0-9a-f]{16}")
_PREFIX: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_ORIGIN: Final = re.compile(r"[!-~]{1,128}")


def new_epoch() -> str:
    """A name for an epoch that nobody has used: a repeated one would make old positions look valid."""
    return urandom(8).hex()


@lru_cache(maxsize=256)
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

    def publish(self, outgoing: Outgoing) -> Exchange[Position | None]:
        """Publish one message: its position, or None if it has no history (contract 5.1)."""
        history = outgoing[3]
        if not history.size:
            (reply,) = yield [self._plain(outgoing)]
            checked(reply)
            return None
        arguments = self._arguments(outgoing)
        (reply,) = yield [PUBLISH.call(arguments)]
        return _position(reply) if type(reply) is list else (yield from _published(arguments, reply))

    def publish_many(self, messages: Iterable[Outgoing]) -> Exchange[list[Position | None]]:
        """Publish messages in their order, in one round trip: their positions.

        The first script call carries the text, so that the ones behind it in the pipeline find it in the cache: with
        names only, an empty cache would refuse all and they would have to be sent again, out of order with the plain
        ones between them (contract 3.2).
        """
        parts = list(self._parts(messages))
        if not parts:
            return []
        first = next((index for index, part in enumerate(parts) if part.is_scripted), None)
        replies = list(
            (
                yield [
                    PUBLISH.call(part.arguments, load=index == first) if part.is_scripted else part.arguments
                    for index, part in enumerate(parts)
                ]
            )
        )
        # Only when somebody flushed the cache in the middle of our pipeline. They did not run.
        refused = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if refused:
            again = yield [PUBLISH.call(parts[index].arguments, load=True) for index in refused]
            for index, reply in zip(refused, again, strict=True):
                replies[index] = reply
        for reply in replies:
            checked(reply)
        positions: list[Position | None] = []
        for part, reply in zip(parts, replies, strict=True):
            positions += _positions(reply, part.messages) if part.is_scripted else [None]
        return positions

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

    def join(self, requests: Iterable[ReadRequest], state: str | None) -> Exchange[Past]:
        """Like `read_many`; in the same round trip the state of a connection is taken from its key (contract 8.3)."""
        if state is None:
            return (yield from self.read_many(requests)), None
        reading = self.read_many(requests)
        try:
            commands = next(reading)
        except StopIteration as nothing:
            (taken,) = yield [("GETDEL", state)]
            return nothing.value, _state(taken)
        *replies, taken = yield [*commands, ("GETDEL", state)]
        try:
            while True:
                commands = reading.send(replies)
                replies = list((yield commands))
        except StopIteration as done:
            return done.value, _state(taken)

    def save(self, saves: Iterable[Save]) -> Exchange[None]:
        """Put states of connections where the next ones find them, in one round trip."""
        commands = [_save(save) for save in saves]
        for reply in (yield commands) if commands else ():
            checked(reply)

    def control(self, message: Mapping[str, object]) -> Exchange[None]:
        """Publish a control message, JSON, to every process.

        It has a history, so that a process whose subscription is down hears of it afterwards (contract 7.5).
        """
        body = json.dumps(message, allow_nan=False, separators=(",", ":")).encode()
        arguments = self._scripted(control_channel(self.prefix), Kind.JSON, body, CONTROL_HISTORY, None)
        (reply,) = yield [PUBLISH.call(arguments)]
        yield from _published(arguments, reply)

    def execute(self, command: Command) -> Exchange[object]:
        """Send one command as it is; the answer as Redis gave it."""
        (reply,) = yield [command]
        return checked(reply)

    def ping(self) -> Exchange[None]:
        """Ask whether Redis is there."""
        (reply,) = yield [("PING",)]
        checked(reply)

    def _parts(self, messages: Iterable[Outgoing]) -> Iterator["_Part"]:
        """The commands: neighbours of one topic share a call of the script, which costs Redis half as much."""
        begun: tuple[str, History] | None = None
        arguments: list[Argument] = []
        count = size = 0
        last, channel = None, ""
        for topic, kind, body, history, origin in messages:
            if topic is not last:
                last, channel = topic, topic.channel(self.prefix)
            if not history.size:
                if begun:
                    yield _Part(tuple(arguments), count)
                    begun = None
                yield _Part(("PUBLISH", channel, encode_bare(kind, body, origin_of(origin))))
                continue
            if begun and (begun != (channel, history) or count == RUN_MESSAGES or size + len(body) > RUN_BYTES):
                yield _Part(tuple(arguments), count)
                begun = None
            if begun:
                arguments += (kind.value, origin_of(origin) or NOBODY, body)
            else:
                begun, count, size = (channel, history), 0, 0
                arguments = list(self._scripted(channel, kind, body, history, origin))
            count += 1
            size += len(body)
        if begun:
            yield _Part(tuple(arguments), count)

    def _plain(self, outgoing: Outgoing) -> Command:
        topic, kind, body, _, origin = outgoing
        return ("PUBLISH", topic.channel(self.prefix), encode_bare(kind, body, origin_of(origin)))

    def _arguments(self, outgoing: Outgoing) -> Command:
        topic, kind, body, history, origin = outgoing
        return self._scripted(topic.channel(self.prefix), kind, body, history, origin)

    def _scripted(self, channel: str, kind: Kind, body: bytes, history: History, origin: str | None) -> Command:
        return (
            channel + ":meta",
            channel + ":log",
            channel,
            self.epoch(),
            history.size,
            ms(history.ttl),
            ms(self.meta_ttl),
            kind.value,
            origin_of(origin) or NOBODY,
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


class _Part(NamedTuple):
    """One command of several publishes: a plain one, or the script's arguments for so many messages."""

    arguments: Command
    messages: int = 0

    @property
    def is_scripted(self) -> bool:
        return self.messages > 0


def _published(arguments: Command, reply: object) -> Exchange[Position]:
    if isinstance(reply, NoScriptError):  # it did not run, so this is not a second publish (contract 3.1)
        (reply,) = yield [PUBLISH.call(arguments, load=True)]
    return _position(reply)


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
    if isinstance(reply, list) and len(reply) == 3:  # `match` takes ten times as long, for each message
        kind, channel, data = reply
        if kind == b"message":
            return channel.decode(), data
        if kind == b"subscribe":
            return channel.decode(), None
        return None
    checked(reply)
    return None


def origin_of(origin: str | None) -> str | None:
    """Look at the origin of a message before it goes to Redis.

    Raises:
        ValueError: it is no connection's id.
    """
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


def _save(save: Save) -> Command:
    if save.body is None:
        return ("DEL", save.key)
    return ("SET", save.key, save.body, "PX", ms(STATE_SECONDS), *(("NX",) if save.if_none else ()))


def _state(reply: object) -> bytes | None:
    if isinstance(reply, Exception):  # no reason to refuse the connection
        logger.warning("A connection's state could not be taken: %s", reply)
    return reply if isinstance(reply, bytes) else None


def checked(reply: object) -> object:
    """An answer, or what was raised instead of one."""
    if isinstance(reply, Exception):
        raise reply
    return reply


def _position(reply: object) -> Position:
    try:
        epoch, seq = cast("tuple[bytes, int]", reply)
        return Position(epoch.decode("ascii"), int(seq))
    except (TypeError, ValueError, AttributeError):
        _not_an_answer(checked(reply))


def _positions(reply: object, count: int) -> list[Position]:
    """Those of so many messages, of which the last one's was answered."""
    epoch, last = _position(reply)
    return [Position(epoch, seq) for seq in range(last - count + 1, last + 1)]


def _result(request: ReadRequest, reply: object) -> ReadResult:
    try:
        epoch, seq, records = cast("tuple[bytes, int, list[bytes]]", checked(reply))
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
