"""The hub: which local connections listen to which topic, and what each of them gets, in which order.

Theory of operation. One hub serves one process. It does no I/O: what it wants done it returns as effects, and what it
sends to a connection goes through the connection's `Sink`. The owner calls it from one thread at a time.

A topic with at least one local connection is *wanted*: the hub asks for SUBSCRIBE, counts the confirmations
(contract 2.1), and forgets the topic when its last connection leaves. In between it is in one of three phases:

* UNPLACED: nobody knows yet where the topic stands. Messages that arrive wait in `pending`.
* LIVE: `position` is the last message that was handed on. The next one has `seq + 1` and goes straight out; an older
  one is a duplicate and is dropped (3.1); anything else is a hole and starts healing.
* HEALING: a read of the history has been asked for. Messages that arrive wait in `pending`. The answer is handed on
  first, then what waited: no gap, no duplicate (7.4). What cannot be completed is said: `gap`.

A connection joins in two steps, because a position and a subscription cannot be had in one Redis command: `begin`
(from now on, what the topic hands on is kept for it), then a read of the history by the owner, then `attach`, which
hands over the past and then what was kept, filtered by `seq`. A connection that is ahead of its topic (its read was
later than the last message that the hub has seen) waits in `ahead` until the topic catches up; one that is behind makes
the topic go back and read again, while the others wait in `ahead`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final
from typing import Protocol as Interface

from shim.core.history import ReadRequest, ReadResult, Want
from shim.core.names import Topic
from shim.core.protocol import Delivery, Frame, Protocol, gap_frame, label_json
from shim.core.wire import Position, Record, decode

PENDING_BYTES: Final = 4 * 1_048_576
"""Most bytes that may wait for one healing topic, or be kept for one joining connection."""

CHECK_CALLS: Final = 40
"""Calls of `check` in which each quiet topic is looked at once."""


class Sink(Interface):
    """A connection's way to its client. No method blocks or raises.

    Attributes:
        last_heard: monotonic time of the last thing, of whatever kind, that came from the client (contract 7.1).
    """

    @property
    def last_heard(self) -> float:
        """See the class."""

    def send(self, frame: Frame) -> None:
        """Take a frame for the client."""

    def send_batch(self, frames: Sequence[Frame]) -> None:
        """Take frames that may together be over the backlog limit (contract 7.2): history after a resume."""

    def ping(self) -> None:
        """Send a WebSocket ping; never asked for where the backend cannot (`pings=False`)."""

    def close(self, code: int, reason: str) -> None:
        """Say goodbye after what has been sent, and end within a bounded time."""

    def subscribed(self) -> None:
        """All of the connection's topics are confirmed by Redis."""


class Member(Interface):
    """What the hub knows of a connection."""

    id: str
    protocol: Protocol
    sink: Sink
    echo: bool

    def joined(self, positions: Mapping[str, Position], recovered: Mapping[str, bool]) -> None:
        """The connection is attached: a v1 client is told `ready` now, before any message."""


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Ask Redis for these channels."""

    channels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """These channels are not wanted any more."""

    channels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Read:
    """Read these topics' past, then call `healed` or `unhealed` for each."""

    requests: tuple[ReadRequest, ...]


type Effect = Subscribe | Unsubscribe | Read


class Phase(Enum):
    """Where a topic is in its life; see the module's theory of operation."""

    UNPLACED = auto()
    LIVE = auto()
    HEALING = auto()


@dataclass(slots=True)
class _Joining:
    """What a topic handed on since a connection began to join it."""

    kept: list[Delivery] = field(default_factory=list)
    size: int = 0

    def keep(self, delivery: Delivery) -> None:
        self.size += len(delivery.record.body)
        if self.size > PENDING_BYTES:
            self.kept.clear()  # the history has to give it instead: see `_rewind`
        else:
            self.kept.append(delivery)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A read that is on its way: it starts after a position, and can only be behind `seen` if Redis lost something."""

    after: Position
    seen: int


@dataclass(slots=True, eq=False)
class _Topic:
    channel: str
    label: str
    phase: Phase = Phase.UNPLACED
    position: Position = Position("", 0)
    wanted_by: dict[Member, None] = field(default_factory=dict)
    raw: dict[Member, None] = field(default_factory=dict)
    v1: dict[Member, None] = field(default_factory=dict)
    ahead: dict[Member, Position] = field(default_factory=dict)
    joining: dict[Member, _Joining] = field(default_factory=dict)
    pending: list[Record] = field(default_factory=list)
    pending_bytes: int = 0
    quiet: bool = False  # nothing was handed on since the last check
    asked_after: int = 0  # this many of `pending` had arrived when the read was asked for
    unsure: bool = False  # something may have been missed while messages waited: heal once more
    reading: _Asked | None = None  # the read that is on its way
    encoded_label: bytes = b""

    def of(self, protocol: Protocol) -> dict[Member, None]:
        return self.raw if protocol is Protocol.RAW else self.v1


class Hub:
    """Topics and the connections of this process. Not thread-safe: the owner serialises the calls."""

    def __init__(self, prefix: str, *, standing: Iterable[str] = ()) -> None:
        """Make an empty hub.

        Args:
            prefix: first part of all Redis names (`REALTIME_PREFIX`).
            standing: channels that are always subscribed (the control channel); their messages are not the hub's.
        """
        self.prefix = prefix
        self.up = False
        self._standing = tuple(standing)
        self._topics: dict[str, _Topic] = {}
        self._topics_of: dict[Member, tuple[_Topic, ...]] = {}
        self._by_id: dict[str, Member] = {}
        self._unconfirmed: Counter[str] = Counter()
        self._to_check: list[_Topic] = []
        self._checks = 0

    # The bus

    def connected(self) -> Sequence[Effect]:
        """Redis is there, for the first time or again: everything has to be asked for anew (contract 7.4)."""
        self.up = True
        channels = (*self._standing, *self._topics)
        self._unconfirmed = Counter(channels)
        return [Subscribe(channels)] if channels else []

    def disconnected(self) -> None:
        """Redis is gone. Connections stay (contract 7.3); nothing counts as confirmed any more."""
        self.up = False
        self._unconfirmed = Counter((*self._standing, *self._topics))
        for topic in self._topics.values():
            topic.unsure = True

    def confirmed(self, channel: str) -> Sequence[Effect]:
        """Redis has confirmed one SUBSCRIBE."""
        self._unconfirmed[channel] -= 1
        if self._unconfirmed[channel] > 0:
            return []  # an older SUBSCRIBE, before an UNSUBSCRIBE that is still on its way
        del self._unconfirmed[channel]
        topic = self._topics.get(channel)
        if topic is None:
            return []
        for member in list(topic.wanted_by):
            if self.is_subscribed(member):
                member.sink.subscribed()
        return self._heal(topic) if topic.phase is not Phase.UNPLACED else []

    def message(self, channel: str, data: bytes) -> Sequence[Effect]:
        """A message has arrived.

        Raises:
            WireError: it is not a record; nothing has changed.
        """
        topic = self._topics.get(channel)
        if topic is None:
            return []  # unsubscribed a moment ago
        record = decode(data)
        if topic.phase is not Phase.LIVE:
            self._wait(topic, record)
            return []
        return self._advance(topic, record)

    def healed(self, result: ReadResult) -> Sequence[Effect]:
        """The history that was asked for is here: hand it on, then what waited."""
        topic = self._topics.get(result.channel)
        if topic is None or topic.reading is None:
            return []
        asked, topic.reading = topic.reading, None
        if asked.after != topic.position:
            return self._heal(topic)  # rewound meanwhile: ask again, from there
        if result.position.epoch == topic.position.epoch and result.position.seq < asked.seen:
            topic.position = Position(result.position.epoch, asked.seen)  # asked after this, Redis starts a new epoch
            return self._heal(topic)
        records = _run_up_to(result, topic.pending)
        first = result.position.seq + 1 - len(records)
        complete = result.position.epoch == topic.position.epoch and first <= topic.position.seq + 1
        if not complete:
            # All that is left is the unbroken run at the end: skip to it, and say so (contract 7.4).
            self._gap(topic, Position(result.position.epoch, first - 1))
        is_ahead = False
        for record in records:
            if record.position is not None and record.position.seq > topic.position.seq:
                is_ahead = not self._hand_on_before(topic, record)
                self._hand_on(topic, record)
        if is_ahead:
            self._forget_before(topic)
        return self._resume(topic)

    def unhealed(self, channel: str) -> None:
        """The history could not be read: `retry` will ask again."""
        topic = self._topics.get(channel)
        if topic is not None:
            topic.reading = None

    def retry(self) -> Sequence[Effect]:
        """Ask again for what healing topics still wait for. Call it every second or so."""
        effects: list[Effect] = []
        if self.up:
            for topic in self._topics.values():
                if topic.phase is Phase.HEALING and not topic.reading and not self._unconfirmed[topic.channel]:
                    effects += self._heal(topic)
        return effects

    def check(self) -> Sequence[Effect]:
        """Look whether quiet topics still stand where Redis does; call it every second.

        A hole is seen when the next message comes; this finds one that no message follows (contract 7.4), and keeps
        the epoch of a topic alive that nobody publishes to.
        """
        if not self._to_check:
            self._to_check = list(self._topics.values())
            self._checks = -(-len(self._to_check) // CHECK_CALLS)
        batch, self._to_check = self._to_check[: self._checks], self._to_check[self._checks :]
        requests: list[ReadRequest] = []
        for topic in batch:
            if topic.quiet and topic.phase is Phase.LIVE and self.up and self._topics.get(topic.channel) is topic:
                requests.extend(request for read in self._heal(topic) for request in read.requests)
            topic.quiet = True
        return [Read(tuple(requests))] if requests else []

    # Connections

    def subscribe(self, member: Member, topics: Iterable[Topic]) -> Sequence[Effect]:
        """A connection wants these topics: the first step. Its sink hears `subscribed` when Redis has confirmed."""
        fresh: list[str] = []
        wanted: dict[str, _Topic] = {}
        for topic in topics:
            channel = topic.channel(self.prefix)
            entry = self._topics.get(channel)
            if entry is None:
                entry = self._topics[channel] = _Topic(channel, topic.label, encoded_label=label_json(topic.label))
                self._unconfirmed[channel] += 1
                fresh.append(channel)
            entry.wanted_by[member] = None
            wanted[channel] = entry
        self._topics_of[member] = tuple(wanted.values())
        self._by_id[member.id] = member
        if self.is_subscribed(member):
            member.sink.subscribed()
        return [Subscribe(tuple(fresh))] if fresh and self.up else []

    def is_subscribed(self, member: Member) -> bool:
        """Whether Redis has confirmed all of a connection's topics (contract 2.1)."""
        return self.up and not any(self._unconfirmed[topic.channel] for topic in self._topics_of[member])

    def begin(self, member: Member, resume: Mapping[str, Position] | None = None) -> list[ReadRequest]:
        """Second step of joining: keep what is handed on from now on, and say what to read.

        Args:
            resume: the positions that a v1 client came back with, by label.

        Returns:
            One request for each topic; give the answers to `attach`.
        """
        requests = []
        for topic in self._topics_of[member]:
            topic.joining[member] = _Joining()
            after = resume.get(topic.label) if resume else None
            if member.protocol is Protocol.RAW:
                want = Want.LAST
            else:
                want = Want.POSITION if after is None else Want.AFTER
            requests.append(ReadRequest(topic.channel, want, after))
        return requests

    def attach(
        self, member: Member, results: Iterable[ReadResult], resume: Mapping[str, Position] | None = None
    ) -> Sequence[Effect]:
        """Last step of joining: hand over the past, then what came meanwhile, then live messages.

        A connection that left in between is ignored.
        """
        if member not in self._topics_of:
            return []
        by_channel = {result.channel: result for result in results}
        positions: dict[str, Position] = {}
        recovered: dict[str, bool] = {}
        past: dict[str, tuple[Record, ...]] = {}
        for topic in self._topics_of[member]:
            result = by_channel[topic.channel]
            positions[topic.label] = result.position
            past[topic.channel] = result.records
            if resume and topic.label in resume:
                recovered[topic.label] = result.completes(resume[topic.label])
                if not recovered[topic.label]:
                    past[topic.channel] = ()  # never part of it (contract 5.3)
        member.joined(positions, recovered)
        effects: list[Effect] = []
        for topic in self._topics_of[member]:
            joining = topic.joining.pop(member)
            catch_up = [Delivery(record, topic.encoded_label) for record in past[topic.channel]]
            effects += self._enter(topic, member, by_channel[topic.channel].position, catch_up, joining)
        return effects

    def unsubscribe(self, member: Member) -> Sequence[Effect]:
        """A connection has left. Topics that nobody wants any more are dropped. Idempotent."""
        gone: list[str] = []
        for topic in self._topics_of.pop(member, ()):
            for members in (topic.wanted_by, topic.of(member.protocol), topic.ahead, topic.joining):
                members.pop(member, None)
            if not topic.wanted_by:
                del self._topics[topic.channel]
                gone.append(topic.channel)
        self._by_id.pop(member.id, None)
        return [Unsubscribe(tuple(gone))] if gone and self.up else []

    def __len__(self) -> int:
        """How many topics are wanted."""
        return len(self._topics)

    # One topic: every change of phase or position is below

    def _enter(
        self, topic: _Topic, member: Member, at: Position, catch_up: list[Delivery], joining: _Joining
    ) -> list[Read]:
        is_ahead = (
            topic.phase is not Phase.UNPLACED and at.epoch == topic.position.epoch and at.seq > topic.position.seq
        )
        # Of what has no history only that is owed which came after the position: the rest was published before the
        # connection knew its place, and would be behind what it is handed from history (contract 2.1, 3.2).
        since, at = ([], at) if is_ahead else _unbroken(joining.kept, at)
        frames = [delivery.frame(member.protocol) for delivery in catch_up + since if self._may_get(member, delivery)]
        if frames:
            member.sink.send_batch(frames)
        if topic.phase is Phase.UNPLACED:
            topic.position = at
            topic.of(member.protocol)[member] = None
            self._take_pending(topic, _seen_up_to(topic.pending, at))
            return self._resume(topic)
        if at == topic.position:
            topic.of(member.protocol)[member] = None
            return []
        topic.ahead[member] = at
        if at.epoch == topic.position.epoch:
            if at.seq > topic.position.seq:
                return []  # its read was later than the last message that reached us
            self._rewind(topic, at)
        elif topic.phase is Phase.HEALING:
            topic.unsure = True  # one of the two epochs is over: a read that begins after this will tell which
        return self._heal(topic) if topic.phase is Phase.LIVE else []

    def _may_get(self, member: Member, delivery: Delivery) -> bool:
        # contract 6.5: a sender does not get its own message back unless it asked
        return member.echo or delivery.record.origin != member.id

    def _advance(self, topic: _Topic, record: Record) -> list[Read]:
        if record.position is None:
            self._hand_on(topic, record)
        elif record.position.epoch == topic.position.epoch and record.position.seq <= topic.position.seq:
            pass  # seen already (contract 3.1)
        elif record.position == (topic.position.epoch, topic.position.seq + 1):
            self._hand_on(topic, record)
        else:
            self._wait(topic, record)
            return self._heal(topic)
        return []

    def _hand_on(self, topic: _Topic, record: Record) -> None:
        topic.quiet = False
        delivery = Delivery(record, topic.encoded_label)
        if record.position is not None:
            topic.position = record.position
        sender = self._by_id.get(record.origin) if record.origin is not None else None
        if sender is not None and sender.echo:
            sender = None
        for protocol, members in ((Protocol.RAW, topic.raw), (Protocol.V1, topic.v1)):
            if members:
                frame = delivery.frame(protocol)
                for member in members:
                    if member is not sender:
                        member.sink.send(frame)
        if topic.ahead:
            self._hand_on_to_ahead(topic, delivery, sender)
        for joining in topic.joining.values():
            joining.keep(delivery)

    def _hand_on_before(self, topic: _Topic, record: Record) -> bool:
        """Hand on what waits without a position and came before this record: history does not have it (3.2).

        Returns:
            Whether the record itself has come.
        """
        index = next((i for i, waiting in enumerate(topic.pending) if waiting.position == record.position), None)
        if index is None:
            return False
        for waiting in self._take_pending(topic, index + 1):
            if waiting.position is None:
                self._hand_on(topic, waiting)
        return True

    def _forget_before(self, topic: _Topic) -> None:
        """Forget what waits without a position where nobody knows whether it came before what history gave.

        The history that was read may be ahead of what has reached us. At most once is promised, and the order (3.2).
        """
        waiting = topic.pending
        self._take_pending(topic, next((i for i, each in enumerate(waiting) if each.position), len(waiting)))

    def _take_pending(self, topic: _Topic, count: int) -> list[Record]:
        taken, topic.pending = topic.pending[:count], topic.pending[count:]
        topic.pending_bytes = sum(len(waiting.body) for waiting in topic.pending)
        topic.asked_after = max(0, topic.asked_after - count)
        return taken

    def _hand_on_to_ahead(self, topic: _Topic, delivery: Delivery, sender: Member | None) -> None:
        position = delivery.record.position
        for member, at in list(topic.ahead.items()):
            if position is None:
                continue  # it was published before the last that this connection got: see `_enter`
            if position.epoch == at.epoch and position.seq >= at.seq:
                if position.seq > at.seq and member is not sender:
                    member.sink.send(delivery.frame(member.protocol))
                del topic.ahead[member]
                topic.of(member.protocol)[member] = None

    def _rewind(self, topic: _Topic, at: Position) -> None:
        """Go back to an older position, for a connection that has only come so far; the others are ahead of it.

        Two connections that join at once read at different moments, and the later one may be attached first.
        """
        for members in (topic.raw, topic.v1):
            for member in members:
                topic.ahead[member] = topic.position
            members.clear()
        topic.position = at

    def _wait(self, topic: _Topic, record: Record) -> None:
        if topic.phase is Phase.UNPLACED and not topic.joining:
            return  # whoever joins later reads it from the history
        topic.pending.append(record)
        topic.pending_bytes += len(record.body)
        if topic.pending_bytes > PENDING_BYTES:
            topic.pending.clear()
            topic.pending_bytes = topic.asked_after = 0
            topic.unsure = True

    def _heal(self, topic: _Topic) -> list[Read]:
        topic.phase = Phase.HEALING
        if topic.reading is not None:
            return []
        epoch = topic.position.epoch
        seen = max((at.seq for at in topic.ahead.values() if at.epoch == epoch), default=0)
        topic.reading = _Asked(topic.position, seen)
        topic.asked_after = len(topic.pending)
        return [Read((ReadRequest(topic.channel, Want.HEAL, topic.position),))]

    def _resume(self, topic: _Topic) -> list[Read]:
        """The topic knows its place (again): hand on what waited; a hole in it heals once more."""
        topic.phase = Phase.LIVE
        if topic.unsure:
            topic.unsure = False
            return self._heal(topic)
        for member, at in list(topic.ahead.items()):
            if at.epoch != topic.position.epoch:
                self._skip(topic, member)  # what it joined in is over
            elif at == topic.position:
                del topic.ahead[member]
                topic.of(member.protocol)[member] = None
        waited, topic.pending, topic.pending_bytes = topic.pending, [], 0
        known, topic.asked_after = topic.asked_after, 0
        for index, record in enumerate(waited):
            if index < known and record.position is not None and record.position.epoch != topic.position.epoch:
                continue  # Redis was asked after it had come, and its epoch was over by then
            if effects := self._advance(topic, record):
                for later in waited[index + 1 :]:
                    self._wait(topic, later)
                topic.asked_after = len(topic.pending)
                return effects
        return []

    def _gap(self, topic: _Topic, position: Position) -> None:
        """Skip to a position: what is missing before it cannot be had any more."""
        topic.position = position
        frame = gap_frame(topic.label, position)
        for member in topic.v1:
            member.sink.send(frame)
        for member, at in list(topic.ahead.items()):
            if at.epoch != position.epoch or at.seq < position.seq:  # others have read the new epoch themselves
                self._skip(topic, member)

    def _skip(self, topic: _Topic, member: Member) -> None:
        del topic.ahead[member]
        topic.of(member.protocol)[member] = None
        if member.protocol is Protocol.V1:
            member.sink.send(gap_frame(topic.label, topic.position))


def _run_up_to(result: ReadResult, waiting: Iterable[Record]) -> list[Record]:
    """The longest unbroken run of records that ends where a read says that the topic stands.

    What waits counts too: it may have expired since it came, and is not lost for it.
    """
    at_hand = {record.position: record for record in (*waiting, *result.records)}
    epoch, seq = result.position
    run: list[Record] = []
    while (record := at_hand.get(Position(epoch, seq))) is not None:
        run.append(record)
        seq -= 1
    return run[::-1]


def _unbroken(kept: list[Delivery], at: Position) -> tuple[list[Delivery], Position]:
    """What a connection that stands at a position takes of what was kept for it, and where it stands then.

    What does not follow without a hole is left to the healing of the topic.
    """
    taken = []
    for delivery in kept[_seen_up_to([delivery.record for delivery in kept], at) :]:
        position = delivery.record.position
        if position is None:
            taken.append(delivery)
        elif position == (at.epoch, at.seq + 1):
            taken.append(delivery)
            at = position
    return taken, at


def _seen_up_to(records: Sequence[Record], at: Position) -> int:
    """How many of these, in the order in which they came, are at or before a position: the last of them counts."""
    last = 0
    for count, record in enumerate(records, 1):
        position = record.position
        if position is not None and position.epoch == at.epoch and position.seq <= at.seq:
            last = count
    return last
