"""A topic's past: how much is kept, how it is asked for, what comes back (contract 5)."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from shim.core.wire import Position, Record

MAX_SIZE: Final = 10_000
MAX_TTL: Final = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class History:
    """How much of a topic is kept (contract 5.1).

    Args:
        size: messages, 0 to 10,000; 0 is at-most-once and costs one plain PUBLISH.
        ttl: seconds after which a message is forgotten, over 0 and up to 7 days.

    Raises:
        ValueError: out of range.
    """

    size: int = 100
    ttl: float = 300.0

    def __post_init__(self) -> None:
        if not _is_number(self.size, int) or not 0 <= self.size <= MAX_SIZE:
            raise ValueError(f"a history's size is a whole number of messages from 0 to {MAX_SIZE}, not {self.size!r}")
        if not _is_number(self.ttl, int, float) or not 0.001 <= self.ttl <= MAX_TTL:
            raise ValueError(f"a history's ttl is 0.001 to {MAX_TTL:.0f} seconds, not {self.ttl!r}")


def _is_number(value: object, *types: type) -> bool:
    return isinstance(value, types) and not isinstance(value, bool)


class Want(StrEnum):
    """What a reader of a topic's past wants."""

    LAST = "last"
    """The position, and the last unexpired message if there is one (raw, contract 5.2)."""

    AFTER = "after"
    """The position, and every message after a position, or none of them (v1, contract 5.3)."""

    HEAL = "heal"
    """The position, and the longest unbroken run of messages that ends at it and starts after a position.

    Asked by a process for its own connections (contract 7.4), so the position it gives is trusted: when Redis is
    behind it, Redis has lost messages, and starts a new epoch.
    """

    POSITION = "position"
    """The position alone."""

    MARK = "mark"
    """Nothing of the past: `mark` is said on the channel, and is heard in its place among what is published.

    Where messages have no numbers, this tells which of them came before what the other questions were answered with.
    """


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """One question about one topic's past. `after` belongs to AFTER and HEAL, `mark` to MARK."""

    channel: str
    want: Want
    after: Position | None = None
    mark: str = ""


@dataclass(frozen=True, slots=True)
class ReadResult:
    """The answer: where the topic stands (an epoch is made where there was none), and records in `seq` order."""

    channel: str
    position: Position
    records: tuple[Record, ...] = ()

    def completes(self, after: Position | None) -> bool:
        """Whether these records are all that came after a position (contract 5.3: all or nothing)."""
        if after is None or after.epoch != self.position.epoch or not 0 <= after.seq <= self.position.seq:
            return False
        seqs = [record.position.seq for record in self.records if record.position is not None]
        return seqs == list(range(after.seq + 1, self.position.seq + 1))
