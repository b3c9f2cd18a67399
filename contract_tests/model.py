"""What the contract allows a connection to observe. Pure: no I/O, no clock, no implementation.

A `TopicLog` is what Redis should remember of one topic. An `Allowed` is what one connection may get from now on: a set
of *states*, each of which says what is still to come on each of the connection's streams. There is one stream for each
topic (its order counts, contract 3.2) and one, `""`, for what the server says to this connection alone; between streams
no order is promised. Where the contract leaves a choice (a message was published while the connection was coming in)
there are several states, and what is observed takes away those that it contradicts.
"""

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from contract_tests.client import Seen
from shim import Kind, Message

DIRECT: Final = ""


class Broken(AssertionError):
    """A clause of the contract does not hold.

    Attributes:
        clause: its number. backend: on which backend, where one can be named.
    """

    def __init__(self, clause: str, text: str, backend: str = "") -> None:
        where = f" on {backend}" if backend else ""
        super().__init__(f"contract {clause}{where}: {text}")
        self.clause = clause
        self.backend = backend


@dataclass(frozen=True, slots=True)
class Said:
    """A payload: `text`, `binary` or `json`, in a form that is equal where kind and value are (contract 4.1)."""

    kind: str
    body: str | bytes

    @classmethod
    def of(cls, value: object) -> "Said":
        """What a published value is: `str` text, `bytes` binary, all else JSON; a `Message` says it itself."""
        if isinstance(value, Message):
            kind, value = value.kind, value.value
            if kind is Kind.JSON:
                return cls("json", json.dumps(value, ensure_ascii=False))
        if isinstance(value, str):
            return cls("text", value)
        if isinstance(value, bytes):
            return cls("binary", value)
        return cls("json", json.dumps(value, ensure_ascii=False))

    def is_in(self, seen: Seen) -> bool:
        """Whether a client got just this. On raw, JSON is a text frame."""
        if seen.fields is None:
            if self.kind == "json" and seen.kind == "text":
                try:
                    return json.dumps(json.loads(seen.value), ensure_ascii=False) == self.body
                except (ValueError, RecursionError):
                    return False
            return bool(seen.kind == self.kind and seen.value == self.body)
        return said_in(seen.fields) == self

    def __str__(self) -> str:
        body = repr(self.body)
        return f"{self.kind} {body if len(body) < 120 else f'{body[:120]}… ({len(self.body)} long)'}"


def said_in(fields: Any) -> Said | None:
    """The payload of a v1 `msg`; None if it has not exactly one, well-formed."""
    if sum(key in fields for key in ("data", "text", "b64")) != 1:
        return None
    if "data" in fields:
        return Said("json", json.dumps(fields["data"], ensure_ascii=False))
    if "text" in fields:
        return Said("text", fields["text"])
    try:
        return Said("binary", base64.b64decode(fields["b64"], validate=True))
    except (binascii.Error, TypeError):
        return None


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One thing that a connection may get.

    Attributes:
        op: as in `Seen`. stream: the topic's label, or `DIRECT`. clause: what is broken if it does not come.
        said: of a `msg`. seq: of a `msg` with history, a `skip` or a `gap`, in `era` of `log`.
        id: of an `ack` or an `error`. maybe: it need not come.
    """

    op: str
    stream: str
    clause: str
    said: Said | None = None
    log: "TopicLog | None" = None
    era: int = 0
    seq: int | None = None
    id: object = None
    maybe: bool = False

    def is_in(self, seen: Seen) -> bool:
        """Whether this is what was seen."""
        if seen.op != self.op:
            return False
        if self.op == "pong":
            return bool(seen.value == self.id)
        if self.said is not None and not self.said.is_in(seen):
            return False
        fields = seen.fields
        if fields is None:
            return True
        if self.op in ("ack", "error"):
            return bool(fields.get("id") == self.id)
        if (fields.get("topic") or DIRECT) != self.stream:
            return False
        return self._is_place(fields.get("pos"))

    def _is_place(self, position: object) -> bool:
        if self.seq is None or self.log is None:
            return position is None
        match position:
            case [str(epoch), int(seq)] if seq == self.seq:
                return self.log.is_epoch(self.era, epoch)
        return False

    def __str__(self) -> str:
        what = f" {self.said}" if self.said is not None else ""
        place = "" if self.seq is None else f" seq {self.seq}"
        maybe = " (maybe)" if self.maybe else ""
        return f"{self.op} {self.stream!r}{place}{what}{maybe}"


@dataclass(frozen=True, slots=True)
class Unheard:
    """A message that was published while servers heard nothing.

    Attributes:
        seq: None without history. oldest: the first that the history still held then. origin: as of `Kept`.
    """

    seq: int | None
    said: Said
    oldest: int
    origin: str | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """A message in a topic's history, and when it is forgotten: not before `alive_until`, surely by `gone_by`.

    `origin` is the id of the connection whose message it is.
    """

    seq: int
    said: Said
    alive_until: float
    gone_by: float
    origin: str | None = None


@dataclass(slots=True)
class TopicLog:
    """What Redis should remember of one topic (contract 5.1).

    Attributes:
        era: counts how often the history was lost. epochs: the names of the eras, as they became known.
        published: all that ever was.
    """

    seq: int = 0
    era: int = 0
    epochs: dict[int, str] = field(default_factory=dict)
    kept: list[Kept] = field(default_factory=list)
    published: set[Said] = field(default_factory=set)

    def publish(
        self, said: Said, size: int, ttl: float, before: float, after: float, origin: str | None = None
    ) -> int | None:
        """A message was published between two moments: its `seq`, None without history."""
        self.published.add(said)
        if not size:
            return None
        self.seq += 1
        self.kept.append(Kept(self.seq, said, before + ttl, after + ttl, origin))
        del self.kept[:-size]
        return self.seq

    def lose(self) -> None:
        """The history is lost: a new era begins (Words, "position")."""
        self.era += 1
        self.seq = 0
        self.kept.clear()

    def is_epoch(self, era: int, name: str) -> bool:
        """Whether an era has this name; an era that has none yet gets it, if no other has it."""
        if era not in self.epochs:
            if name in self.epochs.values():
                return False
            self.epochs[era] = name
        return self.epochs[era] == name

    def last(self, since: float, until: float) -> list[Kept | None]:
        """What a raw client may get as the last unexpired message when asked between two moments (contract 5.2)."""
        found: list[Kept | None] = []
        for kept in reversed(self.kept):
            if kept.gone_by < since:
                continue
            found.append(kept)
            if kept.alive_until > until:
                return found
        return [*found, None]

    def after(self, epoch: str, seq: int, since: float, until: float) -> tuple[list[Kept], bool | None]:
        """What a v1 client with a position gets, and whether it is recovered: None where time decides (5.3)."""
        if self.epochs.get(self.era) != epoch or not 0 <= seq <= self.seq:
            return [], False
        missed = [kept for kept in self.kept if kept.seq > seq]
        if len(missed) != self.seq - seq or any(kept.gone_by < since for kept in missed):
            return [], False
        return missed, True if all(kept.alive_until > until for kept in missed) else None


type State = dict[str, tuple[Item, ...]]


class Allowed:
    """What one connection may get from now on."""

    def __init__(self) -> None:
        self._states: list[State] = [{}]

    @property
    def is_done(self) -> bool:
        """Whether everything that must come may have come."""
        return any(_is_done(state) for state in self._states)

    @property
    def is_certain(self) -> bool:
        """Whether there is one state only: everything is known."""
        return len(self._states) == 1

    def expect(self, *items: Item) -> None:
        """These come next, each on its stream."""
        for state in self._states:
            for item in items:
                state[item.stream] = (*state.get(item.stream, ()), item)

    def choose(self, stream: str, choices: Sequence[Sequence[Item]]) -> None:
        """One of these comes next on a stream."""
        self._states = _distinct(
            {**state, stream: (*state.get(stream, ()), *choice)} for state in self._states for choice in choices
        )

    def take(self, seen: Seen) -> bool:
        """Something was observed: whether it is allowed."""
        found = [
            {**state, stream: items[index + 1 :]}
            for state in self._states
            for stream, items in state.items()
            for index, item in enumerate(items)
            if (index == 0 or all(before.maybe for before in items[:index])) and item.is_in(seen)
        ]
        if not found:
            return False
        self._states = _distinct(found)
        return True

    def settle(self) -> None:
        """Nothing more is on its way: what did not come never will. Call it when `is_done`, behind a fence."""
        self._states = [{}]

    def missing(self) -> list[Item]:
        """What has not come, of the state that misses least."""
        return min(([i for items in s.values() for i in items if not i.maybe] for s in self._states), key=len)

    def pending(self) -> list[Item]:
        """All that might come."""
        return list(dict.fromkeys(item for state in self._states for items in state.values() for item in items))


def _is_done(state: State) -> bool:
    return all(item.maybe for items in state.values() for item in items)


def _distinct(states: Iterable[State]) -> list[State]:
    found: dict[object, State] = {}
    for state in states:
        found.setdefault(frozenset((stream, items) for stream, items in state.items() if items), state)
    return list(found.values())


def healed(
    log: TopicLog,
    stream: str,
    published: Sequence[Unheard],
    *,
    base: int,
    v1: bool,
    new_era: bool,
    hides: Callable[[str | None], bool],
) -> list[list[Item]]:
    """What a connection may get of messages that were published while its server heard nothing (contract 7.4).

    Args:
        log: the topic, after all of it. stream: its label.
        published: what was published then, in order. base: the last `seq` before.
        v1: its clients are told of gaps. new_era: the history was lost before the first.
        hides: whether the connection does not get what has this origin (contract 6.5).
    """
    choices: list[list[Item]] = []
    for healed_at in range(len(published) + 1):
        with_history = [each for each in published[:healed_at] if each.seq is not None]
        oldest = published[healed_at - 1].oldest if healed_at else base + 1
        # From where on it is whole: nowhere was it cut, or there; or earlier, if the subscription was back before the
        # history was read, since what has come by it counts, too.
        firsts = range(base + 1, base + 2)
        if with_history and (oldest > base + 1 or new_era):
            firsts = range(base + (1 if new_era else 2), oldest + 1)
        for first in firsts:
            items: list[Item] = []
            for each in published:
                if each.seq is None or each.seq >= first:
                    items += came(log, stream, "7.4", each, v1=v1, hidden=hides(each.origin), maybe=each.seq is None)
            if not v1 or (first == base + 1 and not new_era):
                choices.append(items)
                continue
            gap = Item("gap", stream, "7.4", log=log, era=log.era, seq=first - 1, maybe=not published)
            # Messages without history go straight out as long as nobody has noticed the hole.
            noticed = next((index for index, item in enumerate(items) if item.seq is not None), len(items))
            choices += [[*items[:index], gap, *items[index:]] for index in range(noticed + 1)]
    return _different(choices)


def came(
    log: TopicLog, stream: str, clause: str, what: Unheard | Kept, *, v1: bool, hidden: bool, maybe: bool = False
) -> list[Item]:
    """A message of a topic as one connection gets it; of its own that it does not want, v1 gets the position (6.5)."""
    if not hidden:
        return [Item("msg", stream, clause, what.said, log, log.era, what.seq, maybe=maybe)]
    if v1 and what.seq is not None:
        return [Item("skip", stream, "6.5", None, log, log.era, what.seq, maybe=maybe)]
    return []


def _different(choices: list[list[Item]]) -> list[list[Item]]:
    found: dict[object, list[Item]] = {}
    for items in choices:
        found.setdefault(tuple((item.op, item.seq, item.said, item.maybe) for item in items), items)
    return list(found.values())
