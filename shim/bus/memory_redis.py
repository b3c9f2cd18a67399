"""A Redis in this process's memory, for tests and for DEBUG: `REALTIME_REDIS_URL = "memory://"`.

Theory of operation. `MemoryRedis` answers commands as Redis does, but only those that the bus and the flag send; what
the Lua scripts do is done here in Python. So it is the server that is imitated, and all that speaks to it is the real
thing: the commands, the buses, the subscriptions. `tests/bus/test_memory.py` gives the same random commands to this and
to a real server, and wants the same answers. It is one process's: a second process has another one, and hears nothing.

A URL may have a name, ``memory://tests``: each name is a Redis of its own.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from redis.exceptions import ConnectionError as LinkLost
from redis.exceptions import NoScriptError, ResponseError

from shim.bus import flag, moves, tally
from shim.bus.commands import Argument, Command, Outgoing
from shim.bus.scripts import PUBLISH, READ
from shim.core.errors import shown
from shim.core.message import Kind
from shim.core.wire import MAX_SEQ, NOBODY, Position, Record, encode

NOTHING: Final = object()
"""What `Line.hear` returns when nothing is there."""

MAX_UNREAD: Final = 32 * 1_048_576
"""Bytes that may wait on one line before it is cut, as Redis does (its `client-output-buffer-limit pubsub`)."""

_SWEEP: Final = 1_024  # messages after which topics that have expired are looked for


@dataclass(slots=True)
class _Meta:
    """A topic's hash. `ends`: Unix ms; a key is gone when that is over."""

    epoch: str
    seq: int
    ends: int = 0


@dataclass(frozen=True, slots=True)
class _Entry:
    seq: int
    ends: int
    record: bytes


@dataclass(slots=True)
class _Log:
    """A topic's stream."""

    ends: int = 0
    entries: deque[_Entry] = field(default_factory=deque)


@dataclass(frozen=True, slots=True)
class _String:
    """A plain value."""

    value: bytes
    ends: int


class Line:
    """One connection to a `MemoryRedis`. Thread-safe.

    Args:
        redis: the other end.
        arrived: called, in whatever thread, when there is something to hear. It must not raise or block.

    Attributes:
        ended: why it has ended, or None.
        channels: what it is subscribed to.
        queued: the commands of a transaction that has begun, None outside of one.
    """

    def __init__(self, redis: "MemoryRedis", arrived: Callable[[], None]) -> None:
        self.ended: LinkLost | None = None
        self.channels: set[str] = set()
        self.queued: list[Command] | None = None
        self._redis = redis
        self._arrived = arrived
        self._unread: deque[object] = deque()
        self._bytes = 0

    def say(self, commands: Sequence[Command]) -> None:
        """Send commands; their answers can be heard at once.

        Raises:
            RedisError: the line has ended.
        """
        for command in commands:
            if self.ended is not None:
                raise LinkLost("the connection has ended") from self.ended
            self._redis.serve(self, command)

    def hear(self) -> object:
        """The next thing that Redis says, an error as an exception object; NOTHING if there is none.

        Raises:
            RedisError: the line has ended.
        """
        if self.ended is not None:
            raise self.ended
        try:
            said = self._unread.popleft()
        except IndexError:
            return NOTHING
        self._bytes -= _weight(said)
        return said

    def push(self, said: object) -> None:
        """Say something to whoever listens. For `MemoryRedis`, which holds its lock."""
        self._unread.append(said)
        self._bytes += _weight(said)
        if self._bytes > MAX_UNREAD:
            self.end(f"{self._bytes} bytes were not read")
        self._arrived()

    def end(self, reason: str = "the connection has ended") -> None:
        """Cut it; what was not heard is lost. Idempotent."""
        if self.ended is None:
            self.ended = LinkLost(reason)
            self._unread.clear()
            self._redis.forget(self)
            self._arrived()


def _weight(said: object) -> int:
    match said:
        case [b"message", _, bytes(data)]:
            return len(data)
    return 0


class MemoryRedis:
    """A Redis that knows the commands of the bus and of the flag. Thread-safe; nothing waits.

    Args:
        clock: seconds since some moment, never going back; all that expires goes by it.

    Attributes:
        clock: the one that it was given.
        journal: told of each message that a `MemoryBus` has published; None for nobody.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.journal: Callable[[Outgoing, Position | None], None] | None = None
        self.clock = clock
        self._lock = threading.RLock()
        self._is_up = True
        self._lines: set[Line] = set()
        self._metas: dict[str, _Meta] = {}
        self._logs: dict[str, _Log] = {}
        self._hashes: dict[str, dict[str, str]] = {}
        self._tallies: dict[str, tuple[int, int]] = {}  # count, and when it ends
        self._strings: dict[str, _String] = {}
        self._published = 0
        self._scripts: dict[str, Callable[..., object]] = {
            PUBLISH.sha: self._publish,
            PUBLISH.text: self._publish,
            READ.sha: self._read,
            READ.text: self._read,
            flag.NUMBER: self._number_flag,
            flag.PUBLISH: self._publish_flag,
            tally.COUNT: self._count,
            moves.ANNOUNCE: self._announce,
        }

    # What a test does to a Redis

    @property
    def is_up(self) -> bool:
        """Whether it can be reached."""
        return self._is_up

    def stop(self) -> None:
        """Be away: every line is cut, and no new one can be had until `start`. The data stay."""
        with self._lock:
            self._is_up = False
            for line in list(self._lines):
                line.end("Connection closed by server.")

    def start(self) -> None:
        """Be there again."""
        self._is_up = True

    def flush(self) -> None:
        """Lose all data, as a Redis without persistence does when it is started again."""
        with self._lock:
            self._metas.clear()
            self._logs.clear()
            self._hashes.clear()
            self._tallies.clear()
            self._strings.clear()

    # What a client does

    def line(self, arrived: Callable[[], None] = lambda: None) -> Line:
        """Connect.

        Raises:
            RedisError: it is away.
        """
        with self._lock:
            if not self._is_up:
                raise LinkLost("Connection refused.")
            made = Line(self, arrived)
            self._lines.add(made)
            return made

    def serve(self, line: Line, command: Command) -> None:
        """Answer a command that came on a line. For `Line`."""
        with self._lock:
            match command:
                case ("SUBSCRIBE", *channels):
                    for channel in map(_text, channels):
                        line.channels.add(channel)
                        line.push([b"subscribe", channel.encode(), len(line.channels)])
                case ("UNSUBSCRIBE", *channels):
                    for channel in map(_text, channels):
                        line.channels.discard(channel)
                        line.push([b"unsubscribe", channel.encode(), len(line.channels)])
                case ("MULTI",):
                    line.queued = []
                    line.push(b"OK")
                case ("EXEC",) if line.queued is not None:
                    queued, line.queued = line.queued, None
                    line.push([self.call(each) for each in queued])
                case _ if line.queued is not None:
                    line.queued.append(command)
                    line.push(b"QUEUED")
                case ("PING",) if line.channels:
                    line.push([b"pong", b""])
                case _:
                    line.push(self.call(command))

    def call(self, command: Command) -> object:
        """Run one command: its answer as Redis would give it, an error as an exception object."""
        with self._lock:
            match command:
                case ("PING",):
                    return b"PONG"
                case ("PUBLISH", channel, data):
                    return self._tell(_text(channel), _bytes(data))
                case ("EVAL" | "EVALSHA", str(script), int(), *arguments) if script in self._scripts:
                    return self._scripts[script](*arguments)
                case ("EVALSHA", *_):
                    return NoScriptError("No matching script.")
                case ("HGET", key, name):
                    value = self._hashes.get(_text(key), {}).get(_text(name))
                    return None if value is None else value.encode()
                case ("SET", key, value, "PX", int(life), *rest) if rest in ([], ["NX"]):
                    return self._set(_text(key), _bytes(value), life, if_none=bool(rest))
                case ("GET", key):
                    found = _alive(self._strings, _text(key), self._now())
                    return None if found is None else found.value
                case ("GETDEL", key):
                    found = _alive(self._strings, _text(key), self._now())
                    return None if found is None else self._strings.pop(_text(key)).value
                case ("DEL", *keys):
                    return sum(self._delete(_text(key)) for key in keys)
            return ResponseError(f"memory:// does not know the command {shown(command)}")

    def forget(self, line: Line) -> None:
        """A line has ended. For `Line`."""
        with self._lock:
            self._lines.discard(line)

    # What the scripts do: shim.bus.scripts says why

    def _publish(
        self,
        meta_key: str,
        log_key: str,
        channel: str,
        fresh: str,
        size: int,
        ttl: int,
        meta_ttl: int,
        *messages: Any,
    ) -> object:
        now = self._now()
        meta = _alive(self._metas, meta_key, now)
        if meta is None or meta.seq > MAX_SEQ - len(messages) // 3:
            meta = self._metas[meta_key] = _Meta(fresh, 0)
            self._logs.pop(log_key, None)
        log = _alive(self._logs, log_key, now)
        left = -1 if log is None else log.ends - now
        if log is None:
            log = self._logs[log_key] = _Log()
        records = []
        for kind, origin, body in zip(messages[::3], messages[1::3], messages[2::3], strict=True):
            meta.seq += 1
            position = Position(meta.epoch, meta.seq)
            record = encode(Record(Kind(kind), body, position, None if origin == NOBODY else origin))
            log.entries.append(_Entry(meta.seq, now + ttl, record))
            records.append(record)
        while len(log.entries) > size:
            log.entries.popleft()
        if left < ttl:
            left = _longer(ttl)
            log.ends = now + left
        need = max(meta_ttl, left)
        if meta.ends < now + need:
            meta.ends = now + _longer(need)
        for record in records:
            self._tell(channel, record)
        self._sweep(now)
        return [meta.epoch.encode(), meta.seq]

    def _read(
        self, meta_key: str, log_key: str, want: str, fresh: str, meta_ttl: int, origin: str, after: int
    ) -> object:
        now = self._now()
        meta = _alive(self._metas, meta_key, now)
        lost = meta is None
        if meta is None:
            meta = self._metas[meta_key] = _Meta(fresh, 0)
        elif want == "heal" and origin == meta.epoch and after > meta.seq:
            lost = True
            meta.epoch, meta.seq = fresh, after
        if lost or meta.ends < now + meta_ttl:
            meta.ends = now + _longer(meta_ttl)
        if lost:
            self._logs.pop(log_key, None)
        log = _alive(self._logs, log_key, now)
        entries = deque[_Entry]() if log is None else log.entries
        records: list[bytes] = []
        if want == "last":
            while entries and entries[-1].ends <= now:
                entries.pop()
            records = [entry.record for entry in list(entries)[-1:]]
        elif want == "after" and origin == meta.epoch and meta.seq > after:
            found = [entry for entry in entries if entry.seq > after]
            if len(found) == meta.seq - after and all(entry.ends > now for entry in found):
                records = [entry.record for entry in found]
        elif want == "heal":
            expected, first = meta.seq, after + 1 if origin == meta.epoch else 0
            for entry in reversed(entries):
                if entry.seq != expected or entry.seq < first or entry.ends <= now:
                    break
                records.append(entry.record)
                expected -= 1
            records.reverse()
        return [meta.epoch.encode(), meta.seq, records]

    def _number_flag(self, key: str, fresh: str) -> object:
        fields = self._hashes.setdefault(key, {})
        epoch = fields.setdefault("epoch", fresh)
        number = int(fields.get("number", 0)) + 1
        fields["number"] = str(number)
        return [epoch.encode(), number]

    def _publish_flag(self, key: str, epoch: str, number: int, copy: str, channel: str, message: bytes) -> object:
        fields = self._hashes.get(key, {})
        if fields.get("epoch") != epoch:
            return -1
        if int(fields.get("published", 0)) >= number:
            return 0
        fields["published"], fields["snapshot"] = str(number), copy
        self._tell(channel, message)
        return 1

    def _announce(self, key: str, length: int, wanted: int, claimed: int, rate: str) -> object:
        round, elapsed = divmod(self._now(), length)
        fields = self._hashes.setdefault(key, {})
        known = int(fields.get("round", -1))
        total, place, spare, given = 0, 0, 0, -1
        if known == round:
            total, place, spare = int(fields["now"]), int(fields["next"]), int(fields["spare"])
        elif known == round - 1:
            total = int(fields["next"])
        if claimed != round:
            slots = math.ceil((round + 1) * float(rate)) - math.ceil(round * float(rate))
            free = max(total, spare, math.ceil(elapsed * slots / length))
            if free < slots:
                given, spare = free, free + 1
        fields.update(round=str(round), now=str(total), next=str(place + wanted), spare=str(spare))
        return [round, elapsed, total, place, given]

    def _count(self, key: str, ttl: int) -> object:
        now = self._now()
        self._tallies = {name: each for name, each in self._tallies.items() if each[1] > now}
        count = self._tallies.get(key, (0, 0))[0] + 1
        self._tallies[key] = (count, now + ttl)
        return count

    # Inside

    def _now(self) -> int:
        return math.floor(self.clock() * 1000 + 1e-3)  # a float's last digits must not lose a millisecond

    def _tell(self, channel: str, data: bytes) -> int:
        listeners = [line for line in self._lines if channel in line.channels]
        for line in listeners:
            line.push([b"message", channel.encode(), data])
        return len(listeners)

    def _set(self, key: str, value: bytes, ttl: int, *, if_none: bool) -> bytes | None:
        now = self._now()
        if if_none and _alive(self._strings, key, now) is not None:
            return None
        self._strings[key] = _String(value, now + ttl)
        self._sweep(now)
        return b"OK"

    def _delete(self, key: str) -> int:
        _alive(self._strings, key, self._now())
        places: tuple[dict[str, Any], ...] = (self._metas, self._logs, self._hashes, self._strings)
        return sum(place.pop(key, None) is not None for place in places)

    def _sweep(self, now: int) -> None:
        self._published += 1
        if self._published % _SWEEP == 0:
            self._metas = {key: meta for key, meta in self._metas.items() if meta.ends >= now}
            self._logs = {key: log for key, log in self._logs.items() if log.ends >= now}
            self._strings = {key: string for key, string in self._strings.items() if string.ends >= now}


def _alive[T: (_Meta, _Log, _String)](keys: dict[str, T], key: str, now: int) -> T | None:
    found = keys.get(key)
    if found is not None and found.ends < now:
        del keys[key]
        return None
    return found


def _longer(ttl: int) -> int:
    return math.ceil(ttl * 1.25)  # see shim.bus.scripts


def _text(argument: Argument) -> str:
    return argument.decode() if isinstance(argument, bytes) else str(argument)


def _bytes(argument: Argument) -> bytes:
    return argument if isinstance(argument, bytes) else str(argument).encode()


# By URL

_known: dict[str, MemoryRedis] = {}
_known_lock = threading.Lock()


def memory_redis(url: str) -> MemoryRedis:
    """The Redis of a ``memory://`` URL in this process, made when first asked for."""
    with _known_lock:
        return _known.setdefault(url, MemoryRedis())


def install(url: str, redis: MemoryRedis | None) -> None:
    """Put a Redis of one's own behind a URL; None takes it away."""
    with _known_lock:
        _known.pop(url, None)
        if redis is not None:
            _known[url] = redis
