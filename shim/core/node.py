"""A node: one server process and all its connections. Who may come in, who must go when. Pure.

The shell calls `tick` once a second, and more often while somebody has to go (`rest`): that one timer serves every
connection's heartbeat (contract 7.1), every move (8.5) and the drain (9.1). It looks at those connections alone that
have something due in this second: `_beats` has a list of them for each second to come. So a process costs next to
nothing while nothing happens, however many connections it has. A move or a drain gives each connection a
moment of its own inside a window, so that no flip and no restart makes a reconnect storm. That is the process's rate.
The fleet's rate is a gate behind it: whoever's moment has come waits there for one of the slots that all processes
share (`shim.core.fleet`). A v1 client that is told `move` has a moment of another kind, by which it has to be gone
(contract 8.3): no gate is before that one.
"""

import heapq
import json
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from math import ceil, inf
from typing import Any, Final

from shim.core.cohorts import FlagState, Snapshot
from shim.core.connection import OPEN, Connection, Effect, State
from shim.core.errors import WireError, shown
from shim.core.fleet import ROUND_SECONDS, Announcement, Fleet, Round
from shim.core.pacing import TokenBucket, between, moments, spread
from shim.core.protocol import Close, Protocol

TICK_SECONDS: Final = 0.1
BRISK_SECONDS: Final = 0.02  # while somebody has to go
LEAST_REST: Final = 0.002  # between two who go: who is sent away in one instant comes back in one, too
BEAT_SECONDS: Final = 1.0  # heartbeats are looked after this often
LOOK_BEATS: Final = 30  # each connection is looked at after so many of them at the latest, or forgotten if it has gone
AHEAD_SECONDS: Final = 2 * ROUND_SECONDS  # a move is announced before its moment: the next round's end at the latest
JOIN_SECONDS: Final = 0.25  # who has to be told `move` and has not joined yet is looked at again after this


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a process lets in, moves and lets go. Seconds, and connections a second.

    Attributes:
        admissions, admission_burst: handshakes (contract 1.1, 503 over it).
        fleet_moves: connections that all processes together move (8.5). None: each process by its own rate alone.
        moves, move_least, move_most: connections that a process moves by itself, and the bounds of its window (8.5).
        hurry: a flip that was told to hurry is moved by so many times both rates.
        move_within: a v1 client that was told `move` and is still here after this is closed with 1012 (8.3).
        stale: for so long after a flip a v1 connection at the wrong backend is taken for one that asked where to go
            before the flip: it is told within `move_least`, like those that were there.
        arrival, arrival_spread: a connection that arrives at the other cohort's backend long after a flip is moved
            this much later, plus a random part. A wrong address is never an error (1.4), and a client that cannot
            be told a better one must not be sent round in circles. One that was told goes within `move_least` (8.4).
        drain: the window in which a stopping process closes its connections (9.1: 30 s at most).
        retry_after: least seconds that a refused client is told to stay away; the most is twice that.
    """

    admissions: float = 200.0
    admission_burst: float = 400.0
    fleet_moves: float | None = 200.0
    moves: float = 200.0
    hurry: float = 3.0
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

    def __init__(
        self,
        backend: str,
        flag: FlagState,
        pace: Pace,
        *,
        now: float,
        random: Callable[[], float],
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """Make a node without connections.

        Args:
            backend: `legacy` or `channels`: the cohort that this process serves.
            now: seconds of a monotonic clock. random: a number in [0, 1).
            wake: called when `tick` is due earlier than `rest` has said; it must not call the node.
        """
        self.backend = backend
        self.flag = flag
        self.pace = pace
        self.draining = False
        self.drained_by = now
        self.connections: dict[str, Connection] = {}
        self._random = random
        self._admissions = TokenBucket(pace.admissions, pace.admission_burst, now)
        self._leaving: dict[str, float] = {}  # connection id → the moment it goes; inf: when Redis is back
        self._order: list[tuple[float, str]] = []  # heap of the same; entries not in `_leaving` are void
        self._waiting: deque[tuple[float, str]] = deque()  # of the same: their moment has come, a slot has not
        self._fleet = Fleet()
        self._fell_open = False
        self._rate = pace.moves  # of the last plan
        self._is_cut_off = False  # Redis is away
        self.hurried = False
        self._flip_until = now
        self._stale_until = now
        self._began = now
        self._beat = 1  # number of the next one: so many `BEAT_SECONDS` after it began
        self._beats: dict[int, list[str]] = {}  # number of a beat → ids of connections that are looked at then
        self._on_wake = wake
        self._rests_until = -inf

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

    def has_room(self, now: float) -> bool:
        """Whether `admit` would let somebody in; takes nothing."""
        return not self.draining and not self._admissions.wait(now)

    def retry_after(self) -> int:
        """Whole seconds for `Retry-After`, spread so that the refused do not come back together."""
        return round(self.pace.retry_after * (1.0 + self._random()))

    def opened(self, connection: Connection, now: float, *, quickly: bool = False) -> None:
        """A handshake was accepted.

        Args:
            quickly: if it came to the wrong backend, it has been told the right one, and will go there when it is
                closed (contract 8.4).
        """
        self.connections[connection.id] = connection
        self._look_again(connection, now)
        if self.draining:
            self._let_go(connection.id, now + max(0.0, self.drained_by - now) * self._random())
        elif self._is_elsewhere(connection):
            if now < self._flip_until:  # it asked where to go before the flip, and came after it
                self._let_go(connection.id, now + (self._flip_until - now) * self._random())
            elif quickly or (connection.protocol is Protocol.V1 and now < self._stale_until):
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
            snapshot = Snapshot.from_json(fields.get("snapshot", {}))
            changed = self.flag.pushed(snapshot)
            hurry = fields.get("hurry") is True and self.flag.version == snapshot.version  # of an older one: over
            if changed or hurry:
                self.flipped(now, hurry=hurry)
            return []
        if op == "disconnect":
            return self._disconnect(fields)
        raise WireError(f"no such control op: {shown(op)}; is another process newer than this one?")

    def flipped(self, now: float, *, hurry: bool = False) -> None:
        """The flag has changed: give everybody who belongs elsewhere a moment to go, and let the others stay (8.5).

        Who has a moment inside the window keeps it: a flag that changes often must not put off the moves for ever. So
        does who has been told to move; where the flag was turned back, it may stay after all.

        Args:
            hurry: faster, until those who have to go now are gone.
        """
        if self.draining:
            return
        self.hurried = self.hurried or hurry
        elsewhere: list[str] = []
        told: dict[str, float] = {}
        for id, connection in self.connections.items():
            if not self._is_elsewhere(connection):
                connection.stay()
            elif connection.state is State.MOVING and id in self._leaving:
                told[id] = self._leaving[id]
            else:
                elsewhere.append(id)
        window = self._window(len(elsewhere))
        self._flip_until = now + max(window, self.pace.move_least)
        self._stale_until = now + self.pace.stale
        kept = {id: self._leaving[id] for id in elsewhere if self._leaving.get(id, inf) <= now + window}
        self._leaving = kept | told
        self._order = [(moment, id) for id, moment in self._leaving.items()]
        heapq.heapify(self._order)
        self._waiting.clear()
        self._deal([id for id in elsewhere if id not in kept], kept.values(), window, now)

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
        self._waiting.clear()
        everybody = sorted(self.connections)
        for id, moment in zip(everybody, moments(len(everybody), self.pace.drain, now, self._random), strict=True):
            self._let_go(id, moment)

    # Time

    def tick(self, now: float) -> list[Due]:
        """What is due: moves and drains whose moment has come, and about once a second the heartbeats."""
        if self._fleet.is_open is not self._fell_open:
            self._fell_open = self._fleet.is_open
            if self._fell_open:
                self._deal_again([id for moment, id in self._waiting if self._leaver(id, moment)], now)
                self._waiting.clear()
        due: list[Due] = []
        while self._order and self._order[0][0] <= now:
            moment, id = heapq.heappop(self._order)
            connection = self._leaver(id, moment)
            if connection is None:
                continue
            if not self.draining and connection.state is not State.MOVING:
                self._waiting.append((moment, id))
                continue
            if self._is_cut_off and not self.draining:
                self._leaving[id] = inf
                continue
            del self._leaving[id]
            if self.draining:
                due.append((connection, connection.close(Close.MOVED, "the server is restarting: reconnect")))
            elif self._is_elsewhere(connection):
                due.append((connection, connection.move(self.pace.move_within)))  # told before: its time is over
            else:
                connection.stay()
        due.extend(self._moved(now))
        if self.hurried and not self._waiting and now >= self._flip_until:
            self.hurried = False
        if now >= self._next_beat:
            due.extend(self._beaten(now))
        return due

    def rest(self, now: float) -> float:
        """Seconds until the next `tick`, unless `wake` is called before."""
        first = self._order[0][0] if self._order else inf
        if self._waiting or first <= now + TICK_SECONDS:
            self._rests_until = -inf
            coming = (self._fleet.next_turn(now) or inf) if self._waiting else first
            return min(BRISK_SECONDS, max(LEAST_REST, coming - now))
        self._rests_until = max(now + TICK_SECONDS, min(self._next_beat, first - AHEAD_SECONDS))
        return self._rests_until - now

    # The fleet

    @property
    def is_alone(self) -> bool:
        """Whether moves go by the process's own rate, because Redis does not tell the fleet's."""
        return self._fleet.is_open

    def announced(self, now: float) -> Announcement | None:
        """What the shell should announce on Redis just now: how many moves are wanted in the fleet's next round.

        Ask after each `tick` and each `control`; then say `granted`, once, whenever the answer is there.

        Returns:
            None for nothing.
        """
        if (rate := self._fleet_rate) is None or self.draining or not self._fleet.is_due(now):
            return None
        until = now + AHEAD_SECONDS
        wanted = 0
        if self._waiting or (self._order and self._order[0][0] <= until):  # else nobody's: there may be many to count
            wanted = sum(
                moment <= until and connection.state is not State.MOVING
                for id, moment in self._leaving.items()
                if (connection := self.connections.get(id)) is not None
            )
        return self._fleet.announce(min(wanted, ceil(self._rate * ROUND_SECONDS)), rate, now)

    def granted(self, round: Round | None, now: float) -> None:
        """Redis has answered what was announced, or has not (None): then moves go by the process's own rate."""
        if round is None or (rate := self._fleet_rate) is None:
            self._fleet.unanswered(now)
        else:
            self._fleet.answered(round, rate, now)

    def redis_away(self) -> None:
        """Redis is away, and so no process lets anybody in (contract 2.1): nobody is cut off for a flip (7.3).

        Who can be told is told, may try, and stays where it is as long as it likes.
        """
        self._is_cut_off = True

    def redis_back(self, now: float) -> None:
        """Redis is there again. Who should have gone meanwhile has a new turn, and is told again."""
        self._is_cut_off = False
        held = [id for id, moment in self._leaving.items() if moment == inf]
        for id in held:
            self.connections[id].stay()
        self._deal_again(held, now)

    # Inside

    @property
    def _haste(self) -> float:
        return self.pace.hurry if self.hurried else 1.0

    @property
    def _fleet_rate(self) -> float | None:
        return None if self.pace.fleet_moves is None else self.pace.fleet_moves * self._haste

    def _window(self, n: int) -> float:
        """Seconds for so many moves of this process."""
        pace = self.pace
        rate = pace.moves * self._haste
        window = spread(n, rate=rate, least=pace.move_least, most=pace.move_most)
        self._rate = max(rate, n / window if window else 0.0)
        return window

    def _deal(self, newcomers: Collection[str], others: Collection[float], window: float, now: float) -> None:
        """Give connections moments in a window, between those that others have in it already."""
        free = between(others, len(newcomers), window, now, self._random)
        for id, moment in zip(sorted(newcomers), free, strict=True):  # ids are random: who came first may go last
            self._let_go(id, moment)

    def _deal_again(self, late: Collection[str], now: float) -> None:
        """Give a new moment to those who waited for something that is over: they must not all go at once."""
        if not late or self.draining:
            return
        soon = [moment for moment in self._leaving.values() if now < moment <= now + self.pace.move_most]
        window = self._window(len(late) + len(soon))
        self._flip_until = max(self._flip_until, now + window)
        self._deal(late, [moment for moment in soon if moment <= now + window], window, now)

    def _moved(self, now: float) -> Iterator[Due]:
        """Move those who wait, as far as the fleet's rate allows."""
        while self._waiting:
            moment, id = self._waiting[0]
            connection = self._leaver(id, moment)
            if connection is None:
                self._waiting.popleft()
            elif not self._is_elsewhere(connection):
                self._waiting.popleft()
                del self._leaving[id]
                connection.stay()
            elif self._is_cut_off and not connection.may_be_told:
                self._waiting.popleft()
                self._leaving[id] = inf
            elif connection.may_be_told and connection.state not in OPEN:
                self._waiting.popleft()
                self._let_go(id, now + JOIN_SECONDS)
            elif self._fleet_rate is None or self._fleet.take(now):
                self._waiting.popleft()
                del self._leaving[id]
                yield connection, connection.move(self.pace.move_within)
                if connection.state is State.MOVING:
                    self._let_go(id, now + self.pace.move_within)
            else:
                return

    def _leaver(self, id: str, moment: float) -> Connection | None:
        """The connection that an entry of `_order` or `_waiting` stands for, None where it is void."""
        return self.connections.get(id) if self._leaving.get(id) == moment else None

    def _is_elsewhere(self, connection: Connection) -> bool:
        cohort = self.flag.cohort(connection.subject)
        return cohort is not None and cohort != self.backend

    def _let_go(self, id: str, moment: float) -> None:
        self._leaving[id] = moment
        heapq.heappush(self._order, (moment, id))
        if moment - AHEAD_SECONDS < self._rests_until:
            self._rests_until = -inf
            self._on_wake()

    @property
    def _next_beat(self) -> float:
        return self._began + self._beat * BEAT_SECONDS

    def _beaten(self, now: float) -> list[Due]:
        """Heartbeats: what is due on those connections whose beat this is."""
        beat = max(self._beat, int((now - self._began) / BEAT_SECONDS))
        missed = sorted(number for number in self._beats if number <= beat)  # one, unless the process was held up
        ids = [id for number in missed for id in self._beats.pop(number)]
        self._beat = beat + 1
        due: list[Due] = []
        for id in ids:
            connection = self.connections.get(id)
            if connection is not None:
                if effects := connection.beat(now):
                    due.append((connection, effects))
                self._look_again(connection, now)
        return due

    def _look_again(self, connection: Connection, now: float) -> None:
        number = ceil((connection.next_beat(now) - self._began) / BEAT_SECONDS)
        number = min(max(number, self._beat), self._beat + LOOK_BEATS)
        self._beats.setdefault(number, []).append(connection.id)

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
