"""The moves of one client from backend to backend, seen from the connection that is not the present one. Pure.

```
   told             opened            ready             all is answered, or the deadline
  ──────► DIALLING ────────► GREETING ──────► LEAVING ───────────────────────────────────► LEFT ── lost ──► (over)
              └── not_moved ─────┴─ a violation, the deadline, the end of either connection ──► (failed)
```

While DIALLING and GREETING, `link` is the new connection; the old one is the present one, and messages come by it. At
`ready` they change places: `link` is the old one, which is kept for the answers that it owes (contract 8.3). There is
never more than one move at a time, and so never more than two connections.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from shim.client.acks import Acks
from shim.client.effects import Counters, Dial, Drop, Effect, Leave, Tell, Transmit
from shim.client.events import Lost, MoveFailed, Moving, ProtocolError, ServerError
from shim.client.frames import (
    PONG_FRAME,
    Ack,
    FrameError,
    Move,
    Ping,
    Ready,
    Received,
    Refusal,
    hello_frame,
    parse,
)
from shim.client.topics import Topics
from shim.core.errors import shown
from shim.core.protocol import Close
from shim.core.wire import Position

LONGEST: Final = 60.0  # seconds; no server can keep a client between two connections for longer
LATE: Final = "not ready in time"


class Stage(Enum):
    """How far a move has come."""

    DIALLING = auto()
    GREETING = auto()
    LEAVING = auto()
    LEFT = auto()


@dataclass(slots=True)
class Crossing:
    """A move under way.

    Attributes:
        link: the connection beside the present one. backend, url: where it leads.
        deadline: when the server's patience is over. asked: the positions that `hello` told.
    """

    link: int
    backend: str
    url: str
    deadline: float
    stage: Stage = Stage.DIALLING
    asked: Mapping[str, Position] = field(default_factory=dict)

    @property
    def has_switched(self) -> bool:
        """Whether `link` is the old connection."""
        return self.stage in (Stage.LEAVING, Stage.LEFT)


class Moves:
    """What a session does with a second connection.

    Args:
        topics, acks, counters: the session's.
        new_link: gives a number to a connection.
        switch: makes the new connection the present one, and gives back the link of the one before.
    """

    def __init__(
        self,
        topics: Topics,
        acks: Acks,
        counters: Counters,
        *,
        new_link: Callable[[], int],
        switch: Callable[[Crossing, Ready, float], tuple[int, list[Effect]]],
    ) -> None:
        self._topics = topics
        self._acks = acks
        self._counters = counters
        self._new_link = new_link
        self._switch = switch
        self._crossing: Crossing | None = None
        self._next: tuple[Move, float] | None = None  # told while the last move was not quite over, and when

    @property
    def has_asked(self) -> bool:
        """Whether `hello` is out on a new connection, and its `ready` is not here yet."""
        return self._crossing is not None and self._crossing.stage is Stage.GREETING

    @property
    def leaves_at(self) -> float | None:
        """When the old connection has to be left, whatever it owes."""
        crossing = self._crossing
        return crossing.deadline if crossing is not None and crossing.stage is Stage.LEAVING else None

    def holds(self, link: int) -> bool:
        """Whether a connection beside the present one is wanted."""
        return self._crossing is not None and self._crossing.link == link

    def due(self, link: int) -> float | None:
        """When `late` has to be asked about a new connection."""
        return self._crossing.deadline if self._crossing is not None and self.holds(link) and self.has_asked else None

    # The present connection

    def told(self, move: Move, now: float) -> list[Effect]:
        """The server said `move`."""
        self._counters.moves_told += 1
        if self._crossing is None:
            return self._begin(move, now, now)
        if self._crossing.has_switched:
            self._next = (move, now)  # one at a time: the old connection may still owe an answer
        return []  # else it is under way

    def alone(self, code: int, reason: str) -> list[Effect]:
        """The present connection is gone: so the one beside it has to go."""
        self._next = None
        if self._crossing is None or self._crossing.has_switched:
            return self.leave()
        link = self._crossing.link
        return self._failed(f"the old connection ended first: {code} {shown(reason)}", Leave(link))

    def leave(self) -> list[Effect]:
        """Close the old connection, whatever it owes."""
        crossing = self._crossing
        if crossing is None or crossing.stage is not Stage.LEAVING:
            return []
        crossing.stage = Stage.LEFT
        return [Leave(crossing.link)]

    def forget(self) -> None:
        """The client is closed."""
        self._crossing = self._next = None

    # The one beside it

    def opened(self, link: int, url: str, now: float, *, was: str | None) -> list[Effect]:
        """The handshake of the new connection is done; `was` is the id of the present one."""
        crossing = self._crossing
        if crossing is None or crossing.link != link or crossing.stage is not Stage.DIALLING:
            return []
        if now >= crossing.deadline:
            return self._failed(LATE)
        crossing.url = url
        crossing.stage = Stage.GREETING
        crossing.asked = dict(self._topics.positions)
        return [Transmit(hello_frame(crossing.asked, was))]

    def not_opened(self, link: int, reason: str) -> list[Effect]:
        """The new connection could not be made."""
        crossing = self._crossing
        is_new = crossing is not None and crossing.link == link and not crossing.has_switched
        return self._failed(reason) if is_new else []

    def received(self, data: str | bytes, link: int, now: float) -> list[Effect]:
        """Something came by it."""
        crossing = self._crossing
        if crossing is None or crossing.link != link:
            return []
        try:
            frame = parse(data)
        except FrameError as error:
            return self.leave() if crossing.has_switched else self._violation(str(error), data)
        match frame:
            case Ping():
                return [Transmit(PONG_FRAME)]
            case Refusal(id, code, reason):
                self._acks.resolve(id, frame, link)
                return [Tell(ServerError(id, code, reason)), *self._leave_if_answered()]
            case Ready() if not crossing.has_switched:
                crossing.stage = Stage.LEAVING
                crossing.link, effects = self._switch(crossing, frame, now)
                return effects + self._leave_if_answered()
            case _ if not crossing.has_switched:
                return self._violation('the first frame is "ready" (contract 2.1)', data)
            case Ack(id):
                self._acks.resolve(id, frame, link)
                return self._leave_if_answered()
            case Received(None, _):
                return self._topics.direct(frame)
            case _:
                return []  # the new connection brings it

    def late(self, link: int, now: float) -> list[Effect]:
        """Its deadline may have come."""
        due = self.due(link)
        return self._failed(LATE, Drop(Close.NORMAL, LATE)) if due is not None and now >= due else []

    def lost(self, link: int, code: int, reason: str, now: float, *, is_open: bool) -> list[Effect]:
        """It is gone. `is_open`: the present one is there, and could move again."""
        crossing = self._crossing
        if crossing is None or crossing.link != link:
            return []
        if not crossing.has_switched:
            return self._failed(f"{crossing.url} closed with {code} {shown(reason)}")
        self._acks.lose(Lost(code, reason, None), link)
        self._crossing = None
        told, self._next = self._next, None
        return self._begin(*told, now) if told is not None and is_open else []

    # Inside

    def _begin(self, move: Move, told_at: float, now: float) -> list[Effect]:
        deadline = told_at + min(move.within, LONGEST)
        self._crossing = crossing = Crossing(self._new_link(), move.backend, move.url, deadline)
        moving = Tell(Moving(move.backend, move.url, move.within))
        if now > deadline:
            return [moving, *self._failed(LATE)]
        return [moving, Dial(crossing.link, crossing.url, deadline)]

    def _leave_if_answered(self) -> list[Effect]:
        crossing = self._crossing
        owes = crossing is not None and self._acks.owed(crossing.link) > 0
        return [] if owes else self.leave()

    def _failed(self, reason: str, *effects: Effect) -> list[Effect]:
        crossing, self._crossing = self._crossing, None
        if crossing is None:
            return []
        self._counters.moves_failed += 1
        return [Tell(MoveFailed(crossing.backend, reason)), *effects]

    def _violation(self, reason: str, data: str | bytes) -> list[Effect]:
        self._counters.protocol_errors += 1
        drop = Drop(Close.BAD_FRAME, cut(reason))
        return [Tell(ProtocolError(reason, shown(data))), *self._failed(reason, drop)]


def cut(reason: str) -> str:
    """As much of a text as a close frame carries (RFC 6455, section 5.5: 123 bytes)."""
    return reason.encode()[:120].decode(errors="ignore")
