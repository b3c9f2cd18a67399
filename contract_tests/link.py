"""One connection of a life: the client, what it may get, and how it may end."""

import json
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from contract_tests.client import Client, Seen
from contract_tests.model import Allowed, Broken, Item, Said, TopicLog
from contract_tests.people import Person
from contract_tests.wire import ServerFault

HEARTBEAT: Final = Said("text", "--heartbeat--")
"""What a raw client that has `heartbeat` in its query gets from time to time, and may say (contract 7.1)."""


@dataclass(frozen=True, slots=True)
class Topic:
    """One facility and one audience: `kind` is e, u, g or s."""

    facility: str
    kind: str
    name: str = ""

    @property
    def label(self) -> str:
        """The topic's name on the client's side."""
        plain = {"e": "everyone", "u": "user", "s": "session"}
        return plain.get(self.kind, f"group:{self.name}")


@dataclass(frozen=True, slots=True)
class Ending:
    """How a connection ends, or may end.

    Attributes:
        codes: of the close frame; None is an end without one. clause: what else would be broken.
        told: codes that `disconnected` may be told; None: it need not run (kill -9, contract 6.4).
        must: it ends now; otherwise it may, at any time. early: what was expected before need not come.
        moves: it is a move: a v1 client that was told has time. untold: a v1 client need not be told to move before,
        because its server stops (contract 9.1).
    """

    codes: frozenset[int | None]
    clause: str
    told: frozenset[int] | None = None
    must: bool = True
    early: bool = False
    moves: bool = False
    untold: bool = False

    @classmethod
    def by(cls, code: int, clause: str, *, must: bool = True, early: bool = False) -> "Ending":
        """The server closes with a code."""
        return cls(frozenset({code}), clause, frozenset({code}), must, early, moves=code == 1012)


@dataclass(slots=True, eq=False)
class Link:
    """One connection.

    Attributes:
        topics: what it listens to, by label. positions: the last that its client knows, by label.
        unseen: what the client read and nobody has judged yet. closed: how it ended.
        id: the server's name for it. own: whose messages are its own: its id, and that of the one that it continues.
        echo: it gets its own messages, too (contract 6.5).
        told_move: the server said `move`.
        reads: False while it has stopped reading. history: the last that it got.
        heartbeats: so many text heartbeats came, whenever they liked. Nobody may publish a `HEARTBEAT` to it.
    """

    number: int
    client: Client
    place: str
    person: Person
    facility: str
    note: str
    query: dict[str, str]
    id: str
    own: frozenset[str]
    echo: bool
    topics: dict[str, Topic] = field(default_factory=dict)
    allowed: Allowed = field(default_factory=Allowed)
    positions: dict[str, tuple[str, int]] = field(default_factory=dict)
    unseen: deque[Seen] = field(default_factory=deque)
    ending: Ending | None = None
    closed: Seen | None = None
    told_move: bool = False
    reads: bool = True
    heartbeats: int = 0
    history: deque[Seen] = field(default_factory=lambda: deque(maxlen=8))

    @property
    def v1(self) -> bool:
        """Which protocol it speaks."""
        return self.client.v1

    @property
    def beats(self) -> bool:
        """Whether text heartbeats come to it."""
        return "heartbeat" in self.query and not self.v1

    def hides(self, origin: str | None) -> bool:
        """Whether it does not get messages of this origin (contract 6.5)."""
        return not self.echo and origin in self.own

    @property
    def listen(self) -> list[tuple[str, str]]:
        """What the facility was told to let it listen to."""
        return [(kind, name) for kind, name in json.loads(self.query.get("listen", "[]"))]

    @property
    def is_open(self) -> bool:
        """Not ended, and not about to."""
        return self.closed is None and not (self.ending and self.ending.must)

    @property
    def is_settled(self) -> bool:
        """Nothing must still come."""
        if self.closed is not None or not self.reads:
            return True
        if self.ending is not None and self.ending.must:
            return self.ending.moves and self.told_move
        return self.allowed.is_done

    def __str__(self) -> str:
        protocol = "v1" if self.v1 else "raw"
        who = self.person.name or "anonymous"
        return f"connection {self.number} ({protocol} on {self.place}, {who!r}, {sorted(self.topics)})"

    def read(self) -> list[Seen]:
        """What has come for its client by now.

        Raises:
            Broken: bytes that no server may send.
        """
        try:
            return self.client.pump()
        except ServerFault as fault:
            raise Broken("4.1", f"{self}: {fault}", self.place) from None

    def judge(self, seen: Seen, logs: dict[Topic, TopicLog]) -> None:
        """Hold one observation against what is allowed.

        Raises:
            Broken: it is not.
        """
        self.history.append(seen)
        if seen.op == "closed":
            self._judge_end(seen)
        elif seen.op == "move":
            if self.ending is None or 1012 not in self.ending.codes:
                raise Broken("8.3", f"{self} was told to move, though it is where it belongs: {seen}", self.place)
            self.told_move = True
        elif self.beats and seen.op == "msg" and HEARTBEAT.is_in(seen):
            self.heartbeats += 1
        elif not self.allowed.take(seen):
            raise self._unexpected(seen, logs)
        if seen.fields is not None and seen.fields.get("pos") and seen.fields.get("topic"):
            epoch, seq = seen.fields["pos"]
            self.positions[seen.fields["topic"]] = (epoch, seq)

    def _judge_end(self, seen: Seen) -> None:
        self.closed = seen
        if self.ending is None:
            raise Broken(_clause_of(seen.code), f"{self} ended for no reason: {seen}", self.place)
        if seen.code not in self.ending.codes:
            codes = sorted(self.ending.codes, key=str)
            raise Broken(self.ending.clause, f"{self} ended with {seen.code}, allowed is {codes}", self.place)
        if self.v1 and seen.code == 1012 and not (self.told_move or self.ending.untold):
            raise Broken("8.3", f"{self} was closed with 1012, and not told to move before", self.place)
        if not self.ending.early and not self.allowed.is_done:
            raise self.missing(f"before it ended with {seen.code}")

    def missing(self, when: str) -> Broken:
        """What should have come and did not."""
        if self.ending is not None and self.ending.must and self.closed is None:
            codes = sorted(self.ending.codes, key=str)
            return Broken(self.ending.clause, f"{self} should have ended with {codes}, {when}", self.place)
        items = self.allowed.missing()
        shown = "; ".join(map(str, items[:5]))
        text = f"{self} did not get {len(items)}: {shown}, {when}; it got {self._got()}"
        return Broken(items[0].clause, text, self.place)

    def _got(self) -> str:
        return "; ".join(map(str, self.history)) or "nothing so far"

    def _unexpected(self, seen: Seen, logs: dict[Topic, TopicLog]) -> Broken:
        pending = self.allowed.pending()
        expected = "; ".join(map(str, pending[:5])) or "nothing"
        clause, why = _diagnosis(seen, pending, self.topics, logs)
        text = f"{self} got {seen}: {why}; allowed is {expected}; it got {self._got()}"
        return Broken(clause, text, self.place)


def _clause_of(code: int | None) -> str:
    known = {1011: "6.2", 1012: "8.5", 4001: "7.2", 4002: "7.1", 4500: "7.5", 1008: "6.3", 1009: "6.3", 1007: "6.3"}
    return known.get(code or 0, "7.3")


def _diagnosis(
    seen: Seen, pending: list[Item], topics: dict[str, Topic], logs: dict[Topic, TopicLog]
) -> tuple[str, str]:
    """The clause that an unexpected observation breaks most likely."""
    if seen.op == "gap":
        return "7.4", "there is no gap"
    if seen.op != "msg":
        return "6.3", f"no {seen.op} is due"
    if any(item.is_in(seen) for item in pending):
        return "3.2", "it came before its turn"
    where = {topic for topic, log in logs.items() if any(said.is_in(seen) for said in log.published)}
    if where and where.isdisjoint(topics.values()):
        return "3.3", "it is somebody else's"
    if where:
        return "3.1", "it came out of order, twice, or should not have come at all"
    return "4.1", "nobody sent this"
