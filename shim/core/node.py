"""A node: one server process and all its connections. Who may come in, who must go when. Pure.

The shell calls `tick` about ten times a second: that one timer serves every connection's heartbeat (contract 7.1),
every move (8.5) and the drain (9.1). A move or a drain gives each connection a moment of its own inside a window, so
that no flip and no restart makes a reconnect storm. A v1 client that is told `move` at its moment has another one, by
which it has to be gone (contract 8.3).
"""

import heapq
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Final

from shim.core.cohorts import FlagState, Snapshot
from shim.core.connection import OPEN, Connection, Effect, State
from shim.core.errors import WireError, shown
from shim.core.pacing import TokenBucket, moments, spread
from shim.core.protocol import Close, Protocol

CONTROL: Final = "control"
BEAT_SECONDS: Final = 1.0  # connections are walked this often for heartbeats
JOIN_SECONDS: Final = 0.25  # who has to be told `move` and has not joined yet is looked at again after this


def control_channel(prefix: str) -> str:
    """The channel by which processes are told things that are no messages: flips, sign-outs."""
    return f"{prefix}:{CONTROL}"


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a process lets in, moves and lets go. Seconds, and connections a second.

    Attributes:
        admissions, admission_burst: handshakes (contract 1.1, 503 over it).
        moves, move_least, move_most: connections moved by a flip, and the window's bounds (8.5).
        move_within: a v1 client that was told `move` and is still here after this is closed with 1012 (8.3).
        stale: for so long after a flip a v1 connection at the wrong backend is taken for one that asked where to go
            before the flip: it is told within `move_least`, like those that were there.
        arrival, arrival_spread: a connection that arrives at the other cohort's backend long after a flip is moved
            this much later, plus a random part. A wrong address is never an error (1.4), and a client that cannot
            be told a better one must not be sent round in circles.
        drain: the window in which a stopping process closes its connections (9.1: 30 s at most).
        retry_after: least seconds that a refused client is told to stay away; the most is twice that.
    """

    admissions: float = 200.0
    admission_burst: float = 400.0
    moves: float = 200.0
    move_least: float = 1.0
    move_most: float = 30.0
    move_within: float = 4.0
    stale: float = 10.0
    arrival: float = 30.0
    arrival_spread: float = 30.0
    drain: float = 10.0
    retry_after: float = 5.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """A handshake that is answered with an HTTP status instead (contract 1.1).

    `retry_after` is in whole seconds and goes with 503.
    """

    status: int
    reason: str
    retry_after: int | None = None

    def headers(self) -> list[tuple[str, str]]:
        """What goes with the status, beside the usual headers of a text."""
        return [] if self.retry_after is None else [("Retry-After", str(self.retry_after))]


type Due = tuple[Connection, list[Effect]]


class Node:
    """The connections of one process. Not thread-safe: the owner serialises the calls."""

    def __init__(self, backend: str, flag: FlagState, pace: Pace, *, now: float, random: Callable[[], float]) -> None:
        """Make a node without connections.

        Args:
            backend: `legacy` or `channels`: the cohort that this process serves.
            now: seconds of a monotonic clock. random: a number in [0, 1).
        """
        self.backend = backend
        self.flag = flag
        self.pace = pace
        self.draining = False
        self.drained_by = now
        self.connections: dict[str, Connection] = {}
        self._random = random
        self._admissions = TokenBucket(pace.admissions, pace.admission_burst, now)
        self._leaving: dict[str, float] = {}  # connection id → the moment it goes
        self._order: list[tuple[float, str]] = []  # heap of the same; entries not in `_leaving` are void
        self._flip_until = now
        self._stale_until = now
        self._next_beat = now + BEAT_SECONDS

    def __len__(self) -> int:
        return len(self.connections)

    # The door

    def admit(self, now: float) -> Refusal | None:
        """Look at a handshake before any work is done for it: None lets it in (contract 1.1)."""
        if self.draining:
            return Refusal(503, "this server is stopping", self.retry_after())
        if not self._admissions.take(now):
            return Refusal(503, "too many are coming in at once", self.retry_after())
        return None

    def retry_after(self) -> int:
        """Whole seconds for `Retry-After`, spread so that the refused do not come back together."""
        return round(self.pace.retry_after * (1.0 + self._random()))

    def opened(self, connection: Connection, now: float) -> None:
        """A handshake was accepted."""
        self.connections[connection.id] = connection
        if self.draining:
            self._let_go(connection.id, now + max(0.0, self.drained_by - now) * self._random())
        elif self._is_elsewhere(connection):
            if now < self._flip_until:  # it asked where to go before the flip, and came after it
                self._let_go(connection.id, now + (self._flip_until - now) * self._random())
            elif connection.protocol is Protocol.V1 and now < self._stale_until:
                self._let_go(connection.id, now + self.pace.move_least * self._random())
            else:
                self._let_go(connection.id, now + self.pace.arrival + self.pace.arrival_spread * self._random())

    def closed(self, connection: Connection) -> None:
        """A connection is gone. Idempotent."""
        self.connections.pop(connection.id, None)
        self._leaving.pop(connection.id, None)

    # Control

    def control(self, data: bytes, now: float) -> list[Due]:
        """Something was said to all processes.

        Raises:
            WireError: not something that this version understands; nothing has changed.
        """
        try:
            fields: dict[str, Any] = json.loads(data)
            op = fields["op"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise WireError(f"not a control message: {shown(data)}") from None
        if op == "flag":
            if self.flag.pushed(Snapshot.from_json(fields.get("snapshot", {}))):
                self.flipped(now)
            return []
        if op == "disconnect":
            return self._disconnect(fields)
        raise WireError(f"no such control op: {shown(op)}; is another process newer than this one?")

    def flipped(self, now: float) -> None:
        """The flag has changed: give everybody who belongs elsewhere a moment to go, and let the others stay (8.5).

        Who has a moment inside the window keeps it: a flag that changes often must not put off the moves for ever. So
        does who has been told to move; where the flag was turned back, it may stay after all.
        """
        if self.draining:
            return
        elsewhere: list[str] = []
        told: dict[str, float] = {}
        for id, connection in self.connections.items():
            if not self._is_elsewhere(connection):
                connection.stay()
            elif connection.state is State.MOVING and id in self._leaving:
                told[id] = self._leaving[id]
            else:
                elsewhere.append(id)
        pace = self.pace
        window = spread(len(elsewhere), rate=pace.moves, least=pace.move_least, most=pace.move_most)
        self._flip_until = now + max(window, pace.move_least)
        self._stale_until = now + pace.stale
        kept = {id: self._leaving[id] for id in elsewhere if self._leaving.get(id, inf) <= now + window}
        self._leaving = kept | told
        self._order = [(moment, id) for id, moment in self._leaving.items()]
        heapq.heapify(self._order)
        newcomers = sorted(id for id in elsewhere if id not in kept)  # ids are random: who came first may go last
        if not newcomers:
            return
        # The window has a slot for each, and newcomers take those that are free: so the rate is never exceeded.
        slot = window / len(elsewhere)
        taken = Counter(int((moment - now) / slot) if slot else 0 for moment in kept.values())
        for id, n in zip(newcomers, _free(taken, len(elsewhere)), strict=False):
            self._let_go(id, now + slot * (n + self._random()))

    def drain(self, now: float) -> None:
        """The process is stopping: nobody comes in any more, everybody goes within the window (contract 9.1).

        The window ends at `drained_by`; who was in the middle of the handshake goes by then, too. Idempotent.
        """
        if self.draining:
            return
        self.draining = True
        self.drained_by = now + self.pace.drain
        self._leaving.clear()
        self._order.clear()
        everybody = sorted(self.connections)
        for id, moment in zip(everybody, moments(len(everybody), self.pace.drain, now, self._random), strict=True):
            self._let_go(id, moment)

    # Time

    def tick(self, now: float) -> list[Due]:
        """What is due: moves and drains whose moment has come, and about once a second the heartbeats."""
        due: list[Due] = []
        while self._order and self._order[0][0] <= now:
            moment, id = heapq.heappop(self._order)
            connection = self.connections.get(id)
            if connection is None or self._leaving.get(id) != moment:
                continue
            del self._leaving[id]
            if self.draining:
                due.append((connection, connection.close(Close.MOVED, "the server is restarting: reconnect")))
            elif not self._is_elsewhere(connection):
                connection.stay()
            elif connection.may_be_told and connection.state not in OPEN:
                self._let_go(id, now + JOIN_SECONDS)
            else:
                due.append((connection, connection.move(self.pace.move_within)))
                if connection.state is State.MOVING:
                    self._let_go(id, now + self.pace.move_within)
        if now >= self._next_beat:
            self._next_beat = now + BEAT_SECONDS
            beats = ((connection, connection.beat(now)) for connection in self.connections.values())
            due.extend(beat for beat in beats if beat[1])
        return due

    # Inside

    def _is_elsewhere(self, connection: Connection) -> bool:
        cohort = self.flag.cohort(connection.subject)
        return cohort is not None and cohort != self.backend

    def _let_go(self, id: str, moment: float) -> None:
        self._leaving[id] = moment
        heapq.heappush(self._order, (moment, id))

    def _disconnect(self, fields: dict[str, Any]) -> list[Due]:
        code = fields.get("code", Close.SIGNED_OUT)
        if not isinstance(code, int) or not 4500 <= code <= 4999:
            raise WireError(f"a disconnect's code is 4500 to 4999, not {shown(code)}")
        wanted = _matcher(fields)
        return [
            (connection, connection.close(code, "signed out"))
            for connection in self.connections.values()
            if wanted(connection)
        ]


def _free(taken: Mapping[int, int], slots: int) -> Iterator[int]:
    """Slots for newcomers. Two in one slot use up the next free one as well."""
    surplus = 0
    for n in range(slots):
        surplus += taken.get(n, 0)
        if surplus:
            surplus -= 1
        else:
            yield n


def _matcher(fields: dict[str, Any]) -> Callable[[Connection], bool]:
    match fields:
        case {"user": str(user)}:
            return lambda connection: connection.user == user
        case {"topic": str(tag)}:
            return lambda connection: any(_is_for(topic.tag, tag) for topic in connection.topics)
        case _:
            raise WireError(f"a disconnect names a user or an audience: {shown(fields)}")


def _is_for(tag: str, audience: str) -> bool:
    # A tag is facility:kind:name, each part without a colon of its own; `audience` is kind:name.
    return tag.partition(":")[2] == audience
