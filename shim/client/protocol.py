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

Inputs are methods, outputs are effects, to be carried out in order. What the application gets is decided here:

* a topic's known position is that of the last message handed on, or one that the server told (`ready`, `gap`);
* a message at or below it is a duplicate and is dropped; one that leaves seqs out is handed on and counted as a hole;
* an epoch changes only by `ready` or `gap`, and only `ready` can make a topic go back: anything else is a violation,
  because after it nobody could say what is missing and what is double. The connection is dropped, and `hello` asks
  again from the last position that was certain.
"""

from collections.abc import Callable, Mapping
from typing import Final

from shim.client.acks import Acks
from shim.client.effects import Counters, Deliver, Drop, Effect, Probe, Settle, State, Tell, Transmit
from shim.client.errors import ClientError, ConnectionClosed
from shim.client.events import (
    Connected,
    Connecting,
    Gap,
    Hole,
    Lost,
    Moving,
    ProtocolError,
    ServerError,
)
from shim.client.frames import (
    PONG_FRAME,
    Ack,
    Frame,
    FrameError,
    Move,
    Ping,
    Ready,
    Received,
    Refusal,
    Skip,
    hello_frame,
    parse,
)
from shim.client.reconnect import Pace, Verdict, verdict_of_close, verdict_of_status
from shim.core.errors import shown
from shim.core.message import Message
from shim.core.pacing import backoff
from shim.core.protocol import Close
from shim.core.wire import Position

HEARTBEAT: Final = 25.0  # seconds between the server's pings, until told (contract 7.1)
ANSWER: Final = 8.0  # seconds a server waits for an answer; we are as patient (contract 7.1)
MARGIN: Final = 5.0  # seconds for the answer to a ping of ours, when the server has been silent
LIVED: Final = 10.0  # seconds open after which a connection counts as having worked
MAX_LEFT_EPOCHS: Final = 256


class Session:
    """One client over all of its connections, of which there is never more than one.

    Not thread-safe: the shell serialises the calls. Times are seconds of a monotonic clock.

    Attributes:
        state: see the diagram. backend, url, connection: of the present or the last connection.
        positions: known position of each topic; what the next `hello` resumes after (contract 5.3).
        delay: while WAITING, seconds until the next attempt. error: when CLOSED, why; None after `closed`.
        failure: the last failed attempt as a sentence. ever_open: some connection has been OPEN.
        counters: what has happened. acks: what has become of messages that were sent.
        deadline: when `tick` has to be called at the latest; None while nothing can be late.
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
        self.backend: str | None = None
        self.url = ""
        self.connection: str | None = None
        self.positions = dict(positions or {})
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
        self._topics: frozenset[str] = frozenset()
        self._left: dict[tuple[str, str], None] = {}  # epochs that a topic has left, oldest first

    # Connecting

    def connecting(self) -> list[Effect]:
        """An attempt begins: discovery, then the handshake."""
        if self.state is State.CLOSED:
            return []
        self.state = State.CONNECTING
        self._opened_at = None
        return [Tell(Connecting(self._attempt))]

    def found(self, backend: str | None, reconnect: object) -> None:
        """Discovery has answered."""
        self.backend = backend
        self.pace = self.pace.told(reconnect)

    def opened(self, now: float, url: str) -> list[Effect]:
        """The handshake is done."""
        if self.state is State.CLOSED:
            return []
        self.url = url
        self.connection = None
        self._heartbeat = HEARTBEAT
        self._probing = False
        if self._v1:
            self.state = State.GREETING
            self.deadline = now + self._ready_timeout
            return [Transmit(hello_frame(self.positions))]
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

    # Coming in

    def received(self, data: str | bytes, now: float) -> list[Effect]:
        """A whole message came from the server."""
        if self.state not in (State.GREETING, State.OPEN):
            return []
        if not self._v1:
            self._heard(now)
            return self._deliver(Received(None, None, Message.of(data)))
        try:
            frame = parse(data)
        except FrameError as error:
            return self._violation(str(error), data)
        if self.state is State.OPEN:
            self._heard(now)
        return self._frame(frame, data, now)

    def tick(self, now: float, *, answered: bool) -> list[Effect]:
        """The deadline has come, or something else woke the shell.

        Args:
            now: seconds of the clock.
            answered: the ping of the last `Probe` has been answered.
        """
        if self._probing and answered:
            self._heard(now)
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

    def lost(self, code: int, reason: str, now: float, *, ours: bool = False) -> list[Effect]:
        """The connection is gone.

        Args:
            code: the close code that came; 1006 without one. With `ours`, the code that we sent.
            reason: what came with it.
            now: seconds of the clock.
            ours: we ended it, because of something the server did: then only a message that is too big for us, which
                resuming would bring again, is a reason to stay away.
        """
        if self.state is State.CLOSED:
            return []
        self.failure = f"closed with {code} {shown(reason)}"
        lived = self._opened_at is not None and now - self._opened_at >= LIVED
        if lived:
            self._attempt = 0
        verdict = verdict_of_close(code)
        effects: list[Effect] = []
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
                self.acks.resolve(id, frame)
                return [Tell(ServerError(id, code, reason))]
            case Ready() if self.state is State.GREETING:
                return self._ready(frame, now)
            case _ if self.state is State.GREETING:
                return self._violation('the first frame is "ready" (contract 2.1)', data)
            case Received():
                return self._message(frame, data)
            case Ack(id):
                self.acks.resolve(id, frame)
                return []
            case Skip():
                return self._skip(frame, data)
            case Move(backend, url, within):
                # The place of make-before-break (contract 8.3): a second connection would be opened and resumed from
                # here, and this one left only then. Until that is so, the server's 1012 at the window's end moves us.
                self.counters.moves_told += 1
                return [Tell(Moving(backend, url, within))]
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
        self.backend = ready.backend
        self.connection = ready.connection
        self.pace = self.pace.told(ready.reconnect)
        if ready.heartbeat:
            self._heartbeat = min(max(ready.heartbeat, 0.05), 600.0)
        self._topics = frozenset(ready.topics)
        known: dict[str, Position] = {}  # a topic that is not told is not ours any more: its position goes
        gaps: list[Effect] = []
        told = {topic: position for topic, position in ready.topics.items() if position is not None}
        for topic, position in told.items():
            mine = self.positions.get(topic)
            if mine is not None and _continues(mine, position) and ready.recovered.get(topic) is True:
                known[topic] = mine  # the missing messages follow: contract 5.3
                continue
            known[topic] = position
            self._leave(topic, mine, position)
            if mine is not None:
                self.counters.gaps += 1
                gaps.append(Tell(Gap(topic, position, mine)))
        self.positions = known
        return [Settle(dict(known)), *self._open(now, told, ready.recovered), *gaps]

    def _message(self, received: Received, data: str | bytes) -> list[Effect]:
        topic, position = received.topic, received.position
        if topic is not None and topic not in self._topics:
            return self._violation(f"a message of {shown(topic)}, which ready did not name (contract 3.3)", data)
        if topic is None or position is None:
            return self._deliver(received)
        known = self.positions.get(topic)
        hole: list[Effect] = []
        if known is not None:
            if position.epoch != known.epoch:
                return self._violation(f"a new epoch without gap; known is {known} (contract 7.4)", data)
            if position.seq <= known.seq:
                self.counters.duplicates_dropped += 1
                return []
            if position.seq > known.seq + 1:
                self.counters.holes += 1
                hole = [Tell(Hole(topic, position, known))]
        self.positions[topic] = position
        return hole + self._deliver(received)

    def _skip(self, skip: Skip, data: str | bytes) -> list[Effect]:
        topic, position = skip.topic, skip.position
        known = self.positions.get(topic)
        if topic not in self._topics:
            return self._violation(f"a gap of {shown(topic)}, which ready did not name", data)
        if (topic, position.epoch) in self._left or (known and _behind(position, known)):
            return self._violation(f"a gap that goes back; known is {known}", data)
        self._leave(topic, known, position)
        self.positions[topic] = position
        self.counters.gaps += 1
        return [Settle(dict(self.positions)), Tell(Gap(topic, position, known))]

    def _leave(self, topic: str, known: Position | None, position: Position) -> None:
        """Remember an epoch that is over, so that no stray `gap` leads back into it."""
        self._left.pop((topic, position.epoch), None)
        if known is not None and known.epoch != position.epoch:
            self._left[topic, known.epoch] = None
            if len(self._left) > MAX_LEFT_EPOCHS:
                del self._left[next(iter(self._left))]

    def _deliver(self, received: Received) -> list[Effect]:
        self.counters.received += 1
        return [Deliver(received)]

    def _violation(self, reason: str, data: str | bytes) -> list[Effect]:
        self.counters.protocol_errors += 1
        return [Tell(ProtocolError(reason, shown(data))), *self._drop(Close.BAD_FRAME, reason)]

    def _drop(self, code: int, reason: str) -> list[Effect]:
        self.state = State.DROPPING
        self.deadline = None
        return [Drop(code, reason.encode()[:120].decode(errors="ignore"))]  # RFC 6455, section 5.5: 123 bytes

    def _heard(self, now: float) -> None:
        self._probing = False
        self.deadline = now + self._heartbeat + ANSWER

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
        self.acks.lose(lost)


def _continues(mine: Position, told: Position) -> bool:
    """Whether a topic that stands at `told` can have brought everything after `mine`."""
    return told.epoch == mine.epoch and told.seq >= mine.seq


def _behind(told: Position, known: Position) -> bool:
    return told.epoch == known.epoch and told.seq < known.seq
