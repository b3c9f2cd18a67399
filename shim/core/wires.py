"""The two wires: what messages are called on Redis, and what stands in them (`REALTIME_WIRE`).

`RealtimeWire` is ours: channels with a hash tag (`shim.core.names`), records with a header (`shim.core.wire`).
`Ws4redisWire` is that of django-websocket-redis 0.6.0, for as long as some processes still run it beside ours: the bare
payload on ``[prefix:]broadcast:facility``, ``[prefix:]user:name:facility`` and so on, and the last message under a key
of the same name. All processes of ours are on the same wire at any one time, so each message travels on exactly one.

What the old wire cannot carry is refused where it is published, and never sent in a form that means something else.
"""

from collections import OrderedDict
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import ClassVar, Final
from typing import Protocol as Interface

from shim.core.errors import InvalidAudience, InvalidPayload, WireError, shown
from shim.core.message import Kind
from shim.core.names import Everyone, Group, Session, Topic, User
from shim.core.wire import Position, Record

NOWHERE: Final = Position("", 0)
"""The position of everything on a wire that has none."""

MAX_SENT: Final = 1_024
"""Messages of a process's own connections that `Sent` remembers at most."""


class Wire(Interface):
    """How messages travel on Redis.

    Attributes:
        has_positions: messages are numbered, so that a hole is seen and a client can resume (contract 5.3, 7.4, 8.3).
            Where this is false, a message is delivered at most once, and only the last one is kept.
    """

    has_positions: ClassVar[bool]

    def channel(self, topic: Topic) -> str:
        """The topic's channel, and the stem of its keys.

        Raises:
            InvalidAudience: this wire has no name for it that would be its alone (contract 3.3, 4.2).
        """

    def check(self, topic: Topic, body: bytes) -> None:
        """Look whether a message can be carried (contract 4.2).

        Raises:
            InvalidAudience, InvalidPayload: it cannot.
        """


@dataclass(frozen=True, slots=True)
class RealtimeWire:
    """Our own wire, which carries everything. `prefix`: first part of all Redis names (`REALTIME_PREFIX`)."""

    prefix: str
    has_positions: ClassVar[bool] = True

    def channel(self, topic: Topic) -> str:
        """See `Wire`."""
        return topic.channel(self.prefix)

    def check(self, topic: Topic, body: bytes) -> None:
        """See `Wire`."""


class Sent:
    """Who of this process's connections has sent what, until it comes back from Redis.

    A bare payload does not say whose it is, and the echo rule (contract 6.5) wants to know. A connection's handler runs
    in the connection's own process, so that process can remember. Of two equal messages on one channel the first to
    come back may be another sender's; to whoever sent one of them that makes no difference.

    Args:
        lock: held while it is changed; handlers of several threads may publish at once.
    """

    def __init__(self, lock: AbstractContextManager[object] | None = None) -> None:
        self._lock = lock if lock is not None else nullcontext()
        self._waiting: OrderedDict[tuple[str, bytes], list[str]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, channel: str, body: bytes, origin: str) -> None:
        """A message is about to be sent. The oldest are forgotten: nobody here may listen to their channels."""
        with self._lock:
            self._waiting.setdefault(_key(channel, body), []).append(origin)
            self._count += 1
            if self._count > MAX_SENT:
                self._take(next(iter(self._waiting)), 0)

    def take(self, channel: str, body: bytes) -> str | None:
        """A message has come: the id of the connection that sent it, if it was one of ours."""
        if not self._count:
            return None
        key = _key(channel, body)
        with self._lock:
            return self._take(key, 0) if key in self._waiting else None

    def drop(self, channel: str, body: bytes, origin: str) -> None:
        """A message was not sent after all."""
        key = _key(channel, body)
        with self._lock:
            origins = self._waiting.get(key, [])
            if origin in origins:
                self._take(key, origins.index(origin))

    def _take(self, key: tuple[str, bytes], index: int) -> str:
        origins = self._waiting[key]
        self._count -= 1
        origin = origins.pop(index)
        if not origins:
            del self._waiting[key]
        return origin


def _key(channel: str, body: bytes) -> tuple[str, bytes]:
    return channel, blake2b(body, digest_size=16).digest()  # a thousand of the longest bodies would be a gigabyte


@dataclass(frozen=True, slots=True)
class Ws4redisWire:
    """The wire of django-websocket-redis 0.6.0.

    A payload travels bare: valid UTF-8 is text, everything else binary, and what was JSON is its text.

    Args:
        prefix: `WS4REDIS_PREFIX`, often empty.
        heartbeat: `WS4REDIS_HEARTBEAT`, a text that the old processes never deliver; None if they have none.
        sent: what this process's own connections have sent.
    """

    prefix: str = ""
    heartbeat: str | None = None
    sent: Sent = field(default_factory=Sent)
    has_positions: ClassVar[bool] = False

    def channel(self, topic: Topic) -> str:
        """See `Wire`: also the key of the last message. As ws4redis, names are taken as they are."""
        facility, prefix = topic.facility, f"{self.prefix}:" if self.prefix else ""
        match topic.audience:
            case Everyone():
                return f"{prefix}broadcast:{facility}"
            case _ if ":" in facility:
                # ws4redis writes "user:a:b:c" for user "a:b" of facility "c" and for user "a" of facility "b:c", and so
                # mixes them up. With no colon in the facility the last one ends the name.
                raise InvalidAudience(
                    f"on ws4redis's wire the facility {shown(facility)} has Everyone() alone, because of its colon: "
                    "names run together there. Rename the facility, or wait for REALTIME_WIRE = 'realtime'"
                )
            case User(name):
                return f"{prefix}user:{name}:{facility}"
            case Group(name):
                return f"{prefix}group:{name}:{facility}"
            case Session(key):
                return f"{prefix}session:{key}:{facility}"

    def check(self, topic: Topic, body: bytes) -> None:
        """See `Wire`."""
        self.channel(topic)
        if self._is_passed_over(body):
            raise InvalidPayload(
                f"ws4redis delivers no empty message and no heartbeat, so its wire cannot carry {shown(body)}"
            )

    def decode(self, channel: str, data: bytes) -> Record:
        """Read what came on a channel.

        Raises:
            WireError: ws4redis would not deliver it.
        """
        return self.kept(data, self.sent.take(channel, data))

    def kept(self, data: bytes, origin: str | None = None) -> Record:
        """Read what is kept of a topic: its last message.

        Raises:
            WireError: ws4redis would not deliver it.
        """
        if self._is_passed_over(data):
            raise WireError(f"ws4redis delivers no empty message and no heartbeat: {shown(data)}")
        try:
            data.decode()
        except UnicodeDecodeError:
            return Record(Kind.BINARY, data, None, origin)
        return Record(Kind.TEXT, data, None, origin)

    def _is_passed_over(self, body: bytes) -> bool:
        return not body or (self.heartbeat is not None and body == self.heartbeat.encode())
