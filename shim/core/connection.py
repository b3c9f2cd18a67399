"""One connection: what it may say, when it is alive, when it must end. Pure; both backends run this very code.

```
            accept (raw)                 joined            move (v1)
  OPENING ───────────────► JOINING ──────────────► LIVE ◄──────────► MOVING
     │      accept (v1)       ▲                     │      stay        │
     └─────────► GREETING ────┘                     └─────────┬────────┘
                          hello                               │ close(code): ours, or a violation,
                                                              ▼ a silence, a move (raw), a drain
  every state ── close(code) ──► CLOSING ── ended(code) ──► CLOSED       (ended: from any state)
```

The table `TRANSITIONS` is that diagram. What the shell must do comes back as effects, in order; what is written to the
client goes through the sink. MOVING is LIVE for a client that has been told to go elsewhere (contract 8.3): it may do
all that it could, until it leaves by itself, or its time is over, or the flag was turned back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from shim.core.cohorts import Subject
from shim.core.errors import InvalidPayload
from shim.core.kept import Kept, comes_back, owner_of, state_key
from shim.core.limits import Limits, TextHeartbeat
from shim.core.member import Sink
from shim.core.message import Message
from shim.core.names import Topic
from shim.core.pacing import TokenBucket
from shim.core.protocol import (
    PING_FRAME,
    Close,
    Hello,
    Pong,
    Protocol,
    Violation,
    ack_frame,
    error_frame,
    move_frame,
    parse,
    ready_frame,
)
from shim.core.protocol import Send as ClientSend
from shim.core.wire import Position


class State(Enum):
    """Where a connection is in its life."""

    OPENING = auto()
    GREETING = auto()  # v1, accepted, `hello` not seen yet
    JOINING = auto()  # the past is being read
    LIVE = auto()
    MOVING = auto()  # v1, told to go elsewhere (contract 8.3)
    CLOSING = auto()  # a close has been asked for; nothing else goes out
    CLOSED = auto()


TRANSITIONS: Final[Mapping[State, frozenset[State]]] = {
    State.OPENING: frozenset({State.GREETING, State.JOINING, State.CLOSING, State.CLOSED}),
    State.GREETING: frozenset({State.JOINING, State.CLOSING, State.CLOSED}),
    State.JOINING: frozenset({State.LIVE, State.CLOSING, State.CLOSED}),
    State.LIVE: frozenset({State.MOVING, State.CLOSING, State.CLOSED}),
    State.MOVING: frozenset({State.LIVE, State.CLOSING, State.CLOSED}),
    State.CLOSING: frozenset({State.CLOSED}),
    State.CLOSED: frozenset(),
}


OPEN: Final = frozenset({State.LIVE, State.MOVING})
"""States in which messages go both ways."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Where the other cohort's connections of the same facility go: what a v1 client is told when it has to move."""

    backend: str
    url: str


@dataclass(frozen=True, slots=True)
class Join:
    """Read the past with `Hub.begin(connection, resume)` and hand it over with `Hub.attach`."""

    resume: Mapping[str, Position]


@dataclass(frozen=True, slots=True)
class Handle:
    """Give this message to the facility's `receive`, then say `handled` or `failed`."""

    message: Message
    id: int | str | None


@dataclass(frozen=True, slots=True)
class Keep:
    """Save the connection's state, then say `told` with what is left of so many seconds."""

    within: float


@dataclass(frozen=True, slots=True)
class Ping:
    """Send a WebSocket ping (raw clients answer it without knowing)."""


@dataclass(frozen=True, slots=True)
class End:
    """Close with this code and reason, after what has been sent."""

    code: int
    reason: str


type Effect = Join | Handle | Keep | Ping | End


class Connection:
    """The state machine of one connection. Not thread-safe: its process's owner serialises the calls.

    Attributes:
        id: random, unguessable, unique. facility, topics: what it listens to. protocol: raw or v1.
        subject: whose connection it is, for cohorts. user: user name, or None.
        was: id of the connection that it continues, as its client says; None before `hello`, and on raw.
        own: origins of messages that it does not get back (contract 6.5).
        wants_last: it begins with the last message of each topic for which it has no position (contract 5.2).
        kept: its state. owner: who may take that over, see `shim.core.kept`.
    """

    def __init__(
        self,
        *,
        id: str,
        sink: Sink,
        protocol: Protocol,
        facility: str,
        topics: Sequence[Topic],
        subject: Subject,
        user: str | None,
        backend: str,
        limits: Limits,
        now: float,
        phase: float = 0.0,
        pings: bool = True,
        echo: bool = True,
        last: bool = False,
        text_heartbeat: TextHeartbeat | None = None,
        elsewhere: Elsewhere | None = None,
        kept: Kept | None = None,
    ) -> None:
        """Make a connection that is about to be accepted.

        Args:
            now: seconds of a monotonic clock. phase: 0 to 1, random: spreads the first ping (contract 7.1).
            pings: the shell can send a WebSocket ping and hears the pong; where it cannot, the server watches raw ones.
            text_heartbeat: for a raw client that wants one.
            elsewhere: where a move would lead; None where that is not known: then a move is a close.
            echo: it gets back what it has sent; without it it does not (contract 6.5).
            last: a v1 client wants the last message of each topic, as raw clients get it (contract 5.2).
            kept: its state, which the facility's handlers set.
        """
        self.id = id
        self.sink = sink
        self.protocol = protocol
        self.facility = facility
        self.topics = tuple(topics)
        self.subject = subject
        self.user = user
        self.backend = backend
        self.was: str | None = None
        self.own: frozenset[str] = frozenset() if echo else frozenset((id,))
        self.wants_last = last or protocol is Protocol.RAW
        self.kept = Kept() if kept is None else kept
        self.owner = owner_of(facility, subject) if protocol is Protocol.V1 else None
        self.state = State.OPENING
        self.close_code: int | None = None
        self._elsewhere = elsewhere
        self._limits = limits
        self._pings = pings
        self._text_heartbeat = text_heartbeat if protocol is Protocol.RAW else None
        self._inbound = TokenBucket(limits.inbound_rate, limits.inbound_burst, now)
        self._handling = False
        self._opened = now
        self._next_ping = now + limits.heartbeat * (0.2 + 0.8 * phase)
        self._next_text = now + (self._text_heartbeat.every * phase if self._text_heartbeat is not None else 0.0)
        self._pinged: float | None = None
        self._violated: float | None = None
        self._is_told = False  # that it has to move, since it last had to
        self._is_known = False  # the client has shown that it knows of this connection

    def __repr__(self) -> str:
        return f"<Connection {self.id} {self.protocol} {self.facility} user={self.user!r} {self.state.name}>"

    # Opening

    def accepted(self, now: float) -> list[Effect]:
        """The handshake reply is on its way; its topics were confirmed before (contract 2.1)."""
        if self.state is not State.OPENING:
            return []
        self._opened = now
        if self.protocol is Protocol.V1:
            self._go(State.GREETING)
            return []
        self._go(State.JOINING)
        return [Join({})]

    def joined(self, positions: Mapping[str, Position | None], recovered: Mapping[str, bool]) -> None:
        """The hub attaches the connection: live from here. Called by the hub."""
        if self.state is not State.JOINING:
            return
        self._go(State.LIVE)
        if self.protocol is Protocol.V1:
            self.sink.send(
                ready_frame(
                    connection=self.id,
                    backend=self.backend,
                    topics=positions,
                    recovered=recovered,
                    heartbeat=self._limits.heartbeat,
                    reconnect=self._limits.reconnect,
                )
            )

    # Coming in

    def received(self, data: str | bytes, now: float) -> list[Effect]:
        """A whole message came from the client (contract 6)."""
        if self.state in (State.CLOSING, State.CLOSED):
            return []
        if self.protocol is Protocol.RAW:
            if self._text_heartbeat is not None and data == self._text_heartbeat.text:
                return []  # never a message (contract 7.1)
            return self._handle(Message.of(data), None, now, frame=_longest(data))
        self._is_known = self._is_known or self.state in OPEN
        try:
            if isinstance(data, bytes):
                raise Violation("binary", 'realtime.v1 has text frames only: use {"op":"send","b64":…}')
            op = parse(data)
            match op, self.state:
                case Pong(), _:
                    return []
                case Hello(resume, was), State.GREETING:
                    self._continues(was)
                    self._go(State.JOINING)
                    return [Join(resume)]
                case Hello(), _:
                    raise Violation("second_hello", "hello is the first frame, once")
                case ClientSend(_, id), State.GREETING:
                    raise Violation("no_hello", "hello is the first frame", id)
                case ClientSend(message, id), _:
                    return self._handle(message, id, now, frame=_longest(data))
        except Violation as violation:
            return self._violation(violation, now)

    def handled(self, id: int | str | None) -> None:
        """The facility's handler has taken a message."""
        self._handling = False
        if id is not None and self.state in OPEN:
            self.sink.send(ack_frame(id))

    def refused(self, id: int | str | None, reason: str, now: float) -> list[Effect]:
        """The handler said that this client may not do that (`PermissionDenied`, `PublishingClosed`)."""
        self._handling = False
        if self.protocol is Protocol.RAW:
            return self.close(Close.POLICY, reason)
        return self._violation(Violation("forbidden", reason, id), now)

    def failed(self) -> list[Effect]:
        """The handler raised: this connection, and no other, ends (contract 6.2)."""
        self._handling = False
        return self.close(Close.HANDLER_FAILED, "the handler failed")

    # Staying alive, and ending

    def beat(self, now: float) -> list[Effect]:
        """The process's timer has come by: say `ping`, or end what has gone silent (contract 7.1)."""
        if self.state is State.GREETING and now - self._opened >= self._limits.hello:
            return self.close(Close.NO_HELLO, f"no hello within {self._limits.hello:g} s")
        if self.state not in OPEN:
            return []
        if self._text_heartbeat is not None and now >= self._next_text:
            self._next_text = _after(self._next_text, self._text_heartbeat.every, now)
            self.sink.send(self._text_heartbeat.frame)
        if self._handling:
            return []
        if self._pinged is not None and self.sink.last_heard >= self._pinged:
            self._pinged = None
        if self._pinged is not None and now - self._pinged >= self._limits.answer:
            return self.close(Close.SILENT, f"nothing heard for {self._limits.answer:g} s after a ping")
        if now < self._next_ping:
            return []
        self._next_ping = _after(self._next_ping, self._limits.heartbeat, now)
        pinged = now if self._pinged is None else self._pinged  # an answer may take longer than to the next ping
        if self.protocol is Protocol.V1:
            self._pinged = pinged
            self.sink.send(PING_FRAME)
            return []
        if not self._pings:
            return []
        self._pinged = pinged
        return [Ping()]

    def next_beat(self, now: float) -> float:
        """When `beat` should be called again, after it has been: not before this moment, and not long after it."""
        if self._handling or self.state not in OPEN:
            return now  # that may change at any time
        moment = self._next_ping
        if self._pinged is not None:
            moment = min(moment, self._pinged + self._limits.answer)
        if self._text_heartbeat is not None:
            moment = min(moment, self._next_text)
        return moment

    @property
    def may_be_told(self) -> bool:
        """Whether it can be told `move`, now or once it has joined."""
        may = self.protocol is Protocol.V1 and self._elsewhere is not None
        return may and self.state not in (State.CLOSING, State.CLOSED)

    def move(self, within: float) -> list[Effect]:
        """The cohort of this connection is served elsewhere now, and its turn to go there has come.

        A v1 client is told, once, and has so many seconds to open a connection there and to leave this one (contract
        8.3). All others, and those who have been told before, are closed (8.4).
        """
        if self._elsewhere is None or self.protocol is not Protocol.V1 or self.state is not State.LIVE:
            return self.close(Close.MOVED, "moved: reconnect")
        self._go(State.MOVING)
        self._is_told = False
        self.kept.is_followed = self.owner is not None
        if self.kept.is_followed and self.kept.body is not None:
            return [Keep(within)]
        self.told(within)
        return []

    def told(self, within: float) -> None:
        """Its state is where the next connection finds it: the client may be told, if it still has to go."""
        if self.state is State.MOVING and self._elsewhere is not None and not self._is_told:
            self._is_told = True
            self.sink.send(move_frame(self._elsewhere.backend, self._elsewhere.url, within))

    def stay(self) -> None:
        """The flag was turned back before the client had left: as if it had never been told."""
        if self.state is State.MOVING:
            self._go(State.LIVE)

    def close(self, code: int, reason: str) -> list[Effect]:
        """End the connection; the first reason wins."""
        if self.state in (State.CLOSING, State.CLOSED):
            return []
        self._go(State.CLOSING)
        self.close_code = code
        return [End(code, reason.encode()[:123].decode(errors="ignore"))]  # RFC 6455, section 5.5: 125 bytes in all

    def ended(self, code: int) -> int | None:
        """The connection is gone, whoever ended it.

        Returns:
            The code for `disconnected`, the first time; None ever after (contract 6.4: exactly once).
        """
        if self.state is State.CLOSED:
            return None
        self._go(State.CLOSED)
        if self.close_code is None:
            self.close_code = code
        # From here on whoever serves it looks: see `leaves_state`. What was saved before may have been taken, by a
        # connection that came to nothing.
        self.kept.is_followed = False
        self.kept.saved = None
        return self.close_code

    def inherits(self, prefix: str) -> str | None:
        """The key on Redis of the state that it takes over, None where it says that it continues no connection."""
        return state_key(prefix, self.was, self.owner) if self.was is not None and self.owner is not None else None

    @property
    def leaves_state(self) -> bool:
        """Whether it has ended, its client may come back, and there is something that Redis was not told since."""
        may = self.owner is not None and self.close_code is not None and comes_back(self.close_code)
        return may and self.kept.body != self.kept.saved

    @property
    def may_be_unknown(self) -> bool:
        """Whether the client may not know that this connection was made: nothing has come from it since."""
        return self.state is State.CLOSED and not self._is_known

    # Inside

    def _go(self, state: State) -> None:
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(
                f"{self.state.name} → {state.name} is not a transition"
            )  # a bug of ours, no one else's
        self.state = state

    def _continues(self, was: str | None) -> None:
        # Nobody gains by a forged one: what it names is kept from whoever names it, and from nobody else.
        self.was = was
        if was is not None and self.own:
            self.own |= {was}

    def _handle(self, message: Message, id: int | str | None, now: float, *, frame: int) -> list[Effect]:
        # Only what a long frame carries is measured: a binary message as base64 is in a frame a third longer.
        if frame > self._limits.max_message and _size(message) > self._limits.max_message:
            return self.close(Close.TOO_BIG, f"over {self._limits.max_message} bytes")
        if not self._inbound.take(now):
            return self.close(Close.POLICY, f"over {self._limits.inbound_rate:g} messages a second: slow down")
        self._handling = True
        self._pinged = None  # its pong may lie unread while the handler works: that is our silence, not its
        return [Handle(message, id)]

    def _violation(self, violation: Violation, now: float) -> list[Effect]:
        if self.state in (State.CLOSING, State.CLOSED):
            return []  # the handler said no to one who is on the way out
        self.sink.send(error_frame(violation.code, violation.reason, violation.id))
        last, self._violated = self._violated, now
        if last is not None and now - last < self._limits.violations:
            return self.close(Close.POLICY, f"again: {violation}"[:120])
        return []


_UNLIMITED: Final = 2**63


def _longest(data: str | bytes) -> int:
    """Bytes that a frame has at most; exact for bytes and ASCII."""
    return len(data) if isinstance(data, bytes) or data.isascii() else len(data) * 4


def _size(message: Message) -> int:
    try:
        return len(message.body(_UNLIMITED))
    except InvalidPayload:  # nested so deeply that it could be read just so
        return _UNLIMITED


def _after(moment: float, every: float, now: float) -> float:
    """The next moment in a rhythm: the timer may come a little late, each time, and nobody is to wait longer for it."""
    return moment + every if moment + every > now else now + every
