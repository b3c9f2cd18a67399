"""The client's state machine, pure: no socket, clock or dice; both shells run this very code.

```
          connecting            opened (v1)            ready
  IDLE ───────────────► CONNECTING ──────────► GREETING ──────► OPEN
    ▲                    ▲    │   └─────────────────────────────► ▲     (opened, raw)
    │         connecting │    │ failed             │ lost         │ lost
    │                    │    ▼                    ▼              │
    │                  WAITING ◄──────────────────────────────────┘
  every state ── closed() or a verdict to stay away ──► CLOSED
  GREETING, OPEN ── a violation, a silence ──► DROPPING ── lost ──► WAITING
```

Inputs are methods, outputs are effects, to be carried out in order. What the application gets is decided by
`shim.client.topics`; where the server contradicts itself nobody could say what is missing and what is double, so the
connection is dropped, and `hello` asks again from the last position that was certain.

While the client moves there are two connections (contract 8.3, `shim.client.moves`), never more. Each has a number,
its link: the inputs that are about one say which; without it they are about the present one. The diagram is about the
present one too: it is OPEN all through a move, and at `ready` the new one takes the old one's place.
"""

from collections.abc import Callable, Mapping
from typing import Final

from shim.client.acks import Acks
from shim.client.effects import Counters, Drop, Effect, Probe, Settle, State, Tell, Transmit
from shim.client.errors import ClientError, ConnectionClosed
from shim.client.events import (
    Connected,
    Connecting,
    Lost,
    Moved,
    ProtocolError,
    ServerError,
)
from shim.client.frames import (
    PONG_FRAME,
    Ack,
    Frame,
    FrameError,
    Missing,
    Move,
    Ping,
    Ready,
    Received,
    Refusal,
    Skip,
    hello_frame,
    parse,
)
from shim.client.moves import Crossing, Moves, cut
from shim.client.reconnect import Pace, Verdict, verdict_of_close, verdict_of_status
from shim.client.topics import Topics, Violated
from shim.core.errors import shown
from shim.core.message import Message
from shim.core.pacing import backoff
from shim.core.protocol import Close
from shim.core.wire import Position

HEARTBEAT: Final = 25.0  # seconds between the server's pings, until told (contract 7.1)
ANSWER: Final = 8.0  # seconds a server waits for an answer; we are as patient (contract 7.1)
MARGIN: Final = 5.0  # seconds for the answer to a ping of ours, when the server has been silent
LIVED: Final = 10.0  # seconds open after which a connection counts as having worked


class Session:
    """One client over all of its connections.

    Not thread-safe: the shell serialises the calls. Times are seconds of a monotonic clock.

    Attributes:
        state: see the diagram. link, backend, url, connection: of the present or the last connection.
        delay: while WAITING, seconds until the next attempt. error: when CLOSED, why; None after `closed`.
        failure: the last failed attempt as a sentence. ever_open: some connection has been OPEN.
        counters: what has happened. acks: what has become of messages that were sent.
        deadline: when the present connection has to be looked at; None while nothing can be late.
    """

    def __init__(
        self,
        *,
        v1: bool,
        random: Callable[[], float],
        positions: Mapping[str, Position] | None = None,
        ready_timeout: float = 10.0,
    ) -> None:
        self.state = State.IDLE
        self.link = 0
        self.backend: str | None = None
        self.url = ""
        self.connection: str | None = None
        self.pace = Pace()
        self.delay = 0.0
        self.deadline: float | None = None
        self.error: ClientError | None = None
        self.failure = "nothing was tried"
        self.ever_open = False
        self.counters = Counters()
        self.acks = Acks()
        self._v1 = v1
        self._random = random
        self._ready_timeout = ready_timeout
        self._attempt = 0
        self._opened_at: float | None = None
        self._heartbeat = HEARTBEAT
        self._probing = False
        self._topics = Topics(positions or {}, self.counters)
        self._links = 0
        self._moves = Moves(self._topics, self.acks, self.counters, new_link=self._new_link, switch=self._switch)

    @property
    def positions(self) -> dict[str, Position]:
        """Known position of each topic; what the next `hello` resumes after (contract 5.3)."""
        return self._topics.positions

    def holds(self, link: int) -> bool:
        """Whether a connection that was made is still wanted."""
        if link == self.link:
            return self.state in (State.GREETING, State.OPEN, State.DROPPING)
        return self._moves.holds(link)

    def due(self, link: int) -> float | None:
        """When `tick` has to be called for a connection at the latest; None while nothing of it can be late."""
        if link != self.link:
            return self._moves.due(link)
        return min((due for due in (self.deadline, self._moves.leaves_at) if due is not None), default=None)

    # Connecting

    def connecting(self) -> list[Effect]:
        """An attempt begins: discovery, then the handshake."""
        if self.state is State.CLOSED:
            return []
        self.state = State.CONNECTING
        self.link = self._new_link()
        self._opened_at = None
        return [Tell(Connecting(self._attempt))]

    def found(self, backend: str | None, reconnect: object) -> None:
        """Discovery has answered."""
        self.backend = backend
        self.pace = self.pace.told(reconnect)

    def opened(self, now: float, url: str, link: int | None = None) -> list[Effect]:
        """The handshake is done."""
        if link is not None and link != self.link:
            return self._moves.opened(link, url, now, was=self.connection)
        if self.state is State.CLOSED:
            return []
        self.url = url
        self._heartbeat = HEARTBEAT
        self._probing = False
        if self._v1:
            self.state = State.GREETING
            self.deadline = now + self._ready_timeout
            return [Transmit(hello_frame(self.positions, self.connection))]
        return self._open(now, {}, {})

    def failed(
        self,
        reason: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        error: ClientError | None = None,
    ) -> list[Effect]:
        """The attempt has failed before there was a connection.

        Args:
            reason: a sentence.
            status: the HTTP status of a refusal.
            retry_after: seconds that the refusal asked for.
            error: what to end with when the verdict is to stay away; without a status, giving one is the verdict.
        """
        if self.state is State.CLOSED:
            return []
        self.failure = reason
        verdict = Verdict.BACKOFF if status is None else verdict_of_status(status)
        if error is not None and (status is None or verdict is Verdict.STAY_AWAY):
            return self._stay_away(error, Lost(None, reason, None, status))
        delay = self._backoff() + (retry_after or 0.0)
        return self._wait(delay, Lost(None, reason, delay, status))

    def not_moved(self, link: int, reason: str) -> list[Effect]:
        """The connection of a `Dial` could not be made."""
        return self._moves.not_opened(link, reason)

    # Coming in

    def received(self, data: str | bytes, now: float, link: int | None = None) -> list[Effect]:
        """A whole message came from the server."""
        if link is not None and link != self.link:
            return self._moves.received(data, link, now)
        if self.state not in (State.GREETING, State.OPEN):
            return []
        if not self._v1:
            self._heard(now)
            return self._topics.direct(Received(None, None, Message.of(data)))
        try:
            frame = parse(data)
        except FrameError as error:
            return self._violation(str(error), data)
        if self.state is State.OPEN:
            self._heard(now)
        try:
            return self._frame(frame, data, now)
        except Violated as violated:
            return self._violation(str(violated), data)

    def tick(self, now: float, *, answered: bool, link: int | None = None) -> list[Effect]:
        """The deadline has come, or something else woke the shell.

        Args:
            now: seconds of the clock.
            answered: the ping of the last `Probe` has been answered.
            link: whose deadline.
        """
        if link is not None and link != self.link:
            return self._moves.late(link, now)
        if self._probing and answered:
            self._heard(now)
        if self._moves.leaves_at is not None and now >= self._moves.leaves_at:
            return self._moves.leave()
        if self.deadline is None or now < self.deadline:
            return []
        if self.state is State.GREETING:
            return self._drop(Close.SILENT, f"no ready within {self._ready_timeout:g} s")
        if not self._probing:
            # The server's WebSocket pings do not show here, so an idle connection is asked before it is given up.
            self._probing = True
            self.deadline = now + MARGIN
            return [Probe()]
        return self._drop(Close.SILENT, f"nothing heard for {self._heartbeat + ANSWER + MARGIN:g} s (contract 7.1)")

    # Ending

    def lost(self, code: int, reason: str, now: float, *, ours: bool = False, link: int | None = None) -> list[Effect]:
        """The connection is gone.

        Args:
            code: the close code that came; 1006 without one. With `ours`, the code that we sent.
            reason: what came with it.
            now: seconds of the clock.
            ours: we ended it, because of something the server did: then only a message that is too big for us, which
                resuming would bring again, is a reason to stay away.
            link: which connection.
        """
        if link is not None and link != self.link:
            return self._moves.lost(link, code, reason, now, is_open=self.state is State.OPEN)
        if self.state in (State.CLOSED, State.WAITING):
            return []
        self.failure = f"closed with {code} {shown(reason)}"
        lived = self._opened_at is not None and now - self._opened_at >= LIVED
        if lived:
            self._attempt = 0
        verdict = verdict_of_close(code)
        effects = self._moves.alone(code, reason)
        if ours:
            if self.state is not State.DROPPING:
                self.counters.protocol_errors += 1
                effects.append(Tell(ProtocolError(f"not WebSocket: {code} {reason}", "")))
            verdict = Verdict.STAY_AWAY if code == Close.TOO_BIG else Verdict.BACKOFF
        if verdict is Verdict.STAY_AWAY:
            return effects + self._stay_away(ConnectionClosed(code, reason), Lost(code, reason, None))
        if verdict is Verdict.BACKOFF:
            delay = self._backoff()
        else:
            delay = self.pace.spread * self._random()
            if not lived:  # moved again and again: the spread alone could be 0, and this a spin
                delay = max(delay, self._backoff() if self._attempt else 0.0)
                self._attempt = max(self._attempt, 1)
        return effects + self._wait(delay, Lost(code, reason, delay))

    def closed(self) -> list[Effect]:
        """The application has closed the client; nothing changes any more."""
        if self.state is not State.CLOSED:
            self._end(State.CLOSED, Lost(Close.NORMAL, "closed by this client", None))
        return []

    def broken(self, error: ClientError) -> None:
        """The shell itself has failed: end with this error rather than in silence."""
        if self.state is not State.CLOSED:
            self.error = error
            self._end(State.CLOSED, Lost(None, str(error), None))

    # Inside

    def _frame(self, frame: Frame, data: str | bytes, now: float) -> list[Effect]:
        match frame:
            case Ping():
                return [Transmit(PONG_FRAME)]
            case Refusal(id, code, reason):
                self.acks.resolve(id, frame, self.link)
                return [Tell(ServerError(id, code, reason))]
            case Ready() if self.state is State.GREETING:
                return self._ready(frame, now)
            case _ if self.state is State.GREETING:
                return self._violation('the first frame is "ready" (contract 2.1)', data)
            case Received(str(), None) if self._moves.has_asked:
                return []  # it is not kept, so it cannot be told from its copy on the new connection: at most once
            case Received():
                return self._topics.message(frame)
            case Ack(id):
                self.acks.resolve(id, frame, self.link)
                return []
            case Skip():
                return self._topics.skip(frame)
            case Missing():
                return self._topics.gap(frame)
            case Move():
                return self._moves.told(frame, now)
            case Ready():
                return self._violation('a second "ready"', data)

    def _open(self, now: float, topics: Mapping[str, Position], recovered: Mapping[str, bool]) -> list[Effect]:
        self.state = State.OPEN
        self.ever_open = True
        self._opened_at = now
        self._heard(now)
        self.counters.connects += 1
        return [Tell(Connected(self.backend, self.url, self.connection, topics, recovered))]

    def _ready(self, ready: Ready, now: float) -> list[Effect]:
        told, gaps = self._begin(ready, self.positions)
        return [Settle(dict(self.positions)), *self._open(now, told, ready.recovered), *gaps]

    def _begin(self, ready: Ready, asked: Mapping[str, Position]) -> tuple[dict[str, Position], list[Effect]]:
        self.backend = ready.backend
        self.connection = ready.connection
        self.pace = self.pace.told(ready.reconnect)
        if ready.heartbeat:
            self._heartbeat = min(max(ready.heartbeat, 0.05), 600.0)
        return self._topics.ready(ready, asked)

    def _switch(self, crossing: Crossing, ready: Ready, now: float) -> tuple[int, list[Effect]]:
        before, self.link = self.link, crossing.link
        self.url = crossing.url
        self._heartbeat = HEARTBEAT
        told, gaps = self._begin(ready, crossing.asked)
        self._heard(now)  # `_opened_at` stays: it is connected without a break, and a move is no sign of trouble
        self.counters.connects += 1
        self.counters.moved += 1
        moved = Moved(ready.backend, self.url, ready.connection, told, ready.recovered)
        return before, [Settle(dict(self.positions)), Tell(moved), *gaps]

    def _violation(self, reason: str, data: str | bytes) -> list[Effect]:
        self.counters.protocol_errors += 1
        return [Tell(ProtocolError(reason, shown(data))), *self._drop(Close.BAD_FRAME, reason)]

    def _drop(self, code: int, reason: str) -> list[Effect]:
        self.state = State.DROPPING
        self.deadline = None
        return [*self._moves.alone(code, reason), Drop(code, cut(reason))]

    def _heard(self, now: float) -> None:
        self._probing = False
        self.deadline = now + self._heartbeat + ANSWER

    def _new_link(self) -> int:
        self._links += 1
        return self._links

    def _backoff(self) -> float:
        delay = backoff(self._attempt, base=self.pace.base, cap=self.pace.cap, random=self._random)
        self._attempt += 1
        return delay

    def _wait(self, delay: float, lost: Lost) -> list[Effect]:
        self.delay = delay
        self._end(State.WAITING, lost)
        return [Tell(lost)]

    def _stay_away(self, error: ClientError, lost: Lost) -> list[Effect]:
        self.error = error
        self._end(State.CLOSED, lost)
        return [Tell(lost)]

    def _end(self, state: State, lost: Lost) -> None:
        if self.state in (State.GREETING, State.OPEN, State.DROPPING):
            self.counters.losses += 1
        self.state = state
        self.deadline = None
        if state is State.CLOSED:
            self._moves.forget()
        self.acks.lose(lost, None if state is State.CLOSED else self.link)
