"""What was published, and what each client got: the count behind the DEMO line. Pure.

What a client should get follows from two things alone: what the publisher logged (id, topic, position), and from where
on the client was subscribed (the position of each topic in its first `ready`; contract 2.1). What it did get is what
the application took from the client, message by message. So a message that is lost on the way cannot be missing
from both sides of the comparison.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from shim.core.wire import Position


class Published(NamedTuple):
    """One message, as its publisher logged it. `at`: moment of the monotonic clock before it was published."""

    id: str
    topic: str
    position: Position
    at: float


class Ledger:
    """Everything that was published, by topic."""

    def __init__(self) -> None:
        self._topics: dict[str, list[Published]] = {}
        self._ids: set[str] = set()

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, id: object) -> bool:
        return id in self._ids

    def add(self, message: Published) -> None:
        if message.id in self._ids:
            raise ValueError(f"published twice under one id: {message}")
        self._ids.add(message.id)
        self._topics.setdefault(message.topic, []).append(message)

    def of(self, topic: str) -> Iterator[Published]:
        return iter(self._topics.get(topic, ()))


@dataclass(slots=True)
class Count:
    """How the comparison came out; counts add up over clients.

    Attributes:
        expected, delivered: messages, once for each client that should get them, and that did.
        duplicated: came again. out_of_order: came after a later one of the same topic.
        unexpected: were not this client's, or came from before its subscription.
    """

    expected: int = 0
    delivered: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    unexpected: int = 0

    @property
    def lost(self) -> int:
        return self.expected - self.delivered

    def __add__(self, other: "Count") -> "Count":
        return Count(
            self.expected + other.expected,
            self.delivered + other.delivered,
            self.duplicated + other.duplicated,
            self.out_of_order + other.out_of_order,
            self.unexpected + other.unexpected,
        )


class Account:
    """One v1 client's.

    Args:
        topics: what it should be subscribed to: labels, as it is told them, and the topics behind.

    Attributes:
        received: messages of the traffic so far. wrong: what could be seen to be wrong as it came.
    """

    def __init__(self, topics: Mapping[str, str]) -> None:
        self.topics = dict(topics)
        self.received = 0
        self._first: dict[str, Position] = {}
        self._last: dict[str, Position] = {}
        self._ids: dict[str, set[str]] = {label: set() for label in topics}
        self.wrong = Count()

    def ready(self, positions: Mapping[str, Position]) -> None:
        """The server has said `ready`; only the first one decides from where on messages are expected.

        Raises:
            ValueError: other topics than this client should have.
        """
        if set(positions) != set(self.topics):
            raise ValueError(f"subscribed to {sorted(positions)}, not to {sorted(self.topics)}")
        for label, position in positions.items():
            self._first.setdefault(label, position)

    def took(self, label: str | None, position: Position | None, id: str | None) -> None:
        """The application has taken a message; `id` is None for one that is not the traffic's."""
        if label not in self._ids or position is None:
            self.wrong.unexpected += id is not None
            return
        last = self._last.get(label)
        if last is not None and last.epoch == position.epoch and position.seq <= last.seq:
            if id in self._ids[label]:
                self.wrong.duplicated += 1
            else:
                self.wrong.out_of_order += 1
        else:
            self._last[label] = position
        if id is not None:
            self.received += id not in self._ids[label]
            self._ids[label].add(id)

    def expected(self, ledger: Ledger) -> Iterator[tuple[str, str]]:
        """Label and id of each message that it should get."""
        for label, topic in self.topics.items():
            first = self._first.get(label)
            if first is not None:
                for message in ledger.of(topic):
                    if not first.epoch or message.position.epoch != first.epoch or message.position.seq > first.seq:
                        yield label, message.id

    def missing(self, ledger: Ledger) -> int:
        return sum(id not in self._ids[label] for label, id in self.expected(ledger))

    def settle(self, ledger: Ledger) -> Count:
        expected = set(self.expected(ledger))
        got = {(label, id) for label, ids in self._ids.items() for id in ids}
        # What the publisher did not log, because its answer was lost, is neither expected nor unexpected.
        foreign = sum(id in ledger for _, id in got - expected)
        return Count(len(expected), len(expected & got), unexpected=foreign)


class RawAccount:
    """One raw client's. It has no positions, so what is expected goes by the clock, and it may lose while it moves."""

    def __init__(self, topics: Iterable[str]) -> None:
        self.topics = set(topics)
        self.received = 0
        self._opened: float | None = None
        self._ids: Counter[str] = Counter()

    def opened(self, now: float) -> None:
        """The handshake is done; the first one counts (contract 2.1)."""
        self._opened = now if self._opened is None else self._opened

    def took(self, id: str | None) -> None:
        if id is not None:
            self._ids[id] += 1
            self.received += 1

    def expected(self, ledger: Ledger) -> set[str]:
        if self._opened is None:
            return set()
        return {message.id for topic in self.topics for message in ledger.of(topic) if message.at > self._opened}

    def missing(self, ledger: Ledger) -> int:
        return len(self.expected(ledger) - self._ids.keys())

    def settle(self, ledger: Ledger) -> Count:
        expected = self.expected(ledger)
        # The last message of a topic comes again with each connection (contract 5.2): repeated, not wrong.
        repeated = sum(times - 1 for times in self._ids.values())
        return Count(len(expected), len(expected & self._ids.keys()), duplicated=repeated)


def id_of(value: Any) -> str | None:
    """The id inside a message of the traffic: JSON, text or binary; None for any other message."""
    match value:
        case {"id": str(id)}:
            return id
        case bytes():
            value = value.decode(errors="replace")
    if isinstance(value, str):
        word, _, rest = value.partition(" ")
        if rest and len(word) == 12:
            return word
        if value.startswith('{"id":"'):  # raw has no JSON frames, so JSON comes as text
            return value[7:].partition('"')[0]
    return None
