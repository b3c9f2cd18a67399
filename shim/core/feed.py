"""One topic as this process follows it: where it stands, who is with it, and who is behind or ahead of it.

A feed is in one of three phases:

* UNPLACED: nobody knows yet where the topic stands. Messages that arrive wait in `pending`.
* LIVE: `position` is the last message that was handed on. The next one has `seq + 1` and goes straight out; an older
  one is a duplicate and is dropped (contract 3.1); anything else is a hole and starts healing.
* HEALING: a read of the history has been asked for. Messages that arrive wait in `pending`. The answer is handed on
  first, then what waited: no gap, no duplicate (7.4). What cannot be completed is said: `gap`.

A connection joins in two steps, because a position and a subscription cannot be had in one Redis command: `begin`
(from now on, what the feed hands on is kept for it), then a read of the history by the owner, then `enter`, which
hands over the past and then what was kept, filtered by `seq`. A connection that is ahead of the feed (its read was
later than the last message that has come here) waits in `ahead` until the feed catches up; one that is behind makes
the feed go back and read again, while the others wait in `ahead`.

A connection's own messages, where it does not get them back (contract 6.5), are left out on raw. On v1 a `skip` stands
in the place of each, wherever it would have come from, so that the positions which a client sees have no hole.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from shim.core.history import ReadRequest, ReadResult, Want
from shim.core.member import Member
from shim.core.protocol import Delivery, Frame, Protocol, gap_frame, label_json
from shim.core.wire import Position, Record

PENDING_BYTES: Final = 4 * 1_048_576
"""Most bytes that may wait for one healing topic, or be kept for one joining connection."""

RECORD_BYTES: Final = 256  # what a record takes beside its body: without it the empty ones would have no limit


class Phase(Enum):
    """Where a feed is in its life; see the module's docstring."""

    UNPLACED = auto()
    LIVE = auto()
    HEALING = auto()


@dataclass(slots=True)
class _Joining:
    """What a feed handed on since a connection began to join it. `is_new`: it came without a position."""

    is_new: bool
    kept: list[Delivery] = field(default_factory=list)
    size: int = 0

    def keep(self, delivery: Delivery) -> None:
        self.size += _weight(delivery.record)
        if self.size > PENDING_BYTES:
            self.kept.clear()  # the history has to give it instead: see `_rewind`
        else:
            self.kept.append(delivery)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A read that is on its way: it starts after a position, and can only be behind `seen` if Redis lost something.

    `again`: the one before had a hole. `line_broke`: since the one before, so what it finds need not come by itself.
    """

    after: Position
    seen: int
    again: bool
    line_broke: bool


class Feed:
    """One topic of this process. Methods that return requests want these read, for `healed` or `unhealed`.

    Attributes:
        channel: on Redis. label: the topic's name on the client's side.
        phase: see the module's docstring. position: the last message that was handed on.
        wanted_by: the connections that listen, joined or not. quiet: nothing was handed on since the last check.
        unsure: something may have been missed while messages waited: heal once more.
    """

    def __init__(self, channel: str, label: str) -> None:
        """Make a feed that nobody listens to yet."""
        self.channel = channel
        self.label = label
        self.phase = Phase.UNPLACED
        self.position = Position("", 0)
        self.wanted_by: dict[Member, None] = {}
        self.quiet = False
        self.unsure = False
        self._label = label_json(label)
        self._with: dict[Protocol, dict[Member, None]] = {protocol: {} for protocol in Protocol}
        self._ahead: dict[Member, Position] = {}
        self._joining: dict[Member, _Joining] = {}
        self._pending: list[Record] = []
        self._pending_bytes = 0
        self._asked_after = 0  # this many of `_pending` had arrived when the read was asked for
        self._reading: _Asked | None = None  # the read that is on its way
        self._line_broke = False
        self._line_behind: Position | None = None  # history was ahead of the subscription's line, which brings this yet

    @property
    def waits_for_answer(self) -> bool:
        """Whether a read is on its way."""
        return self._reading is not None

    # Connections

    def begin(self, member: Member, after: Position | None) -> ReadRequest:
        """Keep what is handed on from now on for a connection, and say what to read for it.

        Args:
            after: the position that a v1 client came back with.
        """
        self._joining[member] = _Joining(is_new=after is None)
        if after is None:
            return ReadRequest(self.channel, Want.LAST if member.wants_last else Want.POSITION)
        return ReadRequest(self.channel, Want.AFTER, after)

    def enter(self, member: Member, at: Position, past: Iterable[Record]) -> list[ReadRequest]:
        """Hand over the past, which ends at a position, then what was kept; live messages follow."""
        joining = self._joining.pop(member)
        if joining.is_new and member.protocol is Protocol.V1:
            # A v1 client stands where `ready` said, and that is behind the last message: so that has no position.
            past = [record._replace(position=None) for record in past if record.origin not in member.own]
        catch_up = [Delivery(record, self._label) for record in past]
        is_ahead = self.phase is not Phase.UNPLACED and at.epoch == self.position.epoch and at.seq > self.position.seq
        # Of what has no history only that is owed which came after the position: the rest was published before the
        # connection knew its place, and would be behind what it is handed from history (contract 2.1, 3.2).
        since, at = ([], at) if is_ahead else _unbroken(joining.kept, at)
        frames = [frame for delivery in catch_up + since if (frame := _frame(member, delivery)) is not None]
        if frames:
            member.sink.send_batch(frames)
        if self.phase is Phase.UNPLACED:
            self.position = at
            self._place(member)
            self._take_pending(_seen_up_to(self._pending, at))
            return self._resume()
        if at == self.position:
            self._place(member)
            return []
        self._ahead[member] = at
        if at.epoch == self.position.epoch:
            if at.seq > self.position.seq:
                return []  # its read was later than the last message that reached us
            self._rewind(at)
        elif self.phase is Phase.HEALING:
            self.unsure = True  # one of the two epochs is over: a read that begins after this will tell which
        return self.heal() if self.phase is Phase.LIVE else []

    def stand(self, member: Member) -> None:
        """Follow the topic from now on for a listener that neither joins nor leaves, and has no past."""
        self.phase = Phase.HEALING  # from no position at all: the first read only says where the topic stands
        self.wanted_by[member] = None
        self._with[member.protocol][member] = None

    def leave(self, member: Member) -> None:
        """A connection is gone."""
        for members in (self.wanted_by, self._with[member.protocol], self._ahead, self._joining):
            members.pop(member, None)

    # Messages

    def break_off(self) -> None:
        """The subscription's line is broken: what was on it never comes, and more may be missed."""
        self.unsure = self._line_broke = True
        self._line_behind = None

    def message(self, record: Record) -> list[ReadRequest]:
        """A message has come from Redis."""
        if self.phase is Phase.LIVE:
            return self._advance(record)
        self._wait(record)
        return []

    def hand_on_now(self, record: Record) -> None:
        """Hand on what has no position and no place either: it does not wait for what is before it."""
        self._hand_on(record)

    def healed(self, result: ReadResult) -> list[ReadRequest]:
        """The history that was asked for is here: hand it on, then what waited."""
        if self._reading is None:
            return []
        asked, self._reading = self._reading, None
        if asked.after != self.position:
            return self.heal()  # rewound meanwhile: ask again, from there
        if result.position.epoch == self.position.epoch and result.position.seq < asked.seen:
            self.position = Position(result.position.epoch, asked.seen)  # asked after this, Redis starts a new epoch
            return self.heal()
        records = _run_up_to(result, self._pending)
        first = result.position.seq + 1 - len(records)
        complete = result.position.epoch == self.position.epoch and first <= self.position.seq + 1
        if not complete and result.position.epoch == self.position.epoch and not asked.again:
            self._line_broke |= asked.line_broke
            return self._ask(again=True)  # what history lost may be about to come: messages have a line of their own
        if not complete:
            # All that is left is the unbroken run at the end: skip to it, and say so (contract 7.4).
            self._gap(Position(result.position.epoch, first - 1))
        self._complete(records, may_come_yet=not asked.line_broke)
        return self._resume()

    def unhealed(self) -> None:
        """The history could not be read; whoever asks again calls `heal`."""
        self._reading = None

    def heal(self) -> list[ReadRequest]:
        """Ask for the history; where an answer is on its way, ask again after it."""
        self.phase = Phase.HEALING
        if self._reading is not None:
            self.unsure = True  # Redis may have answered before what makes us ask now
            return []
        return self._ask(again=False)

    def _ask(self, *, again: bool) -> list[ReadRequest]:
        self.unsure = False  # this read begins after whatever was missed
        epoch = self.position.epoch
        seen = max((at.seq for at in self._ahead.values() if at.epoch == epoch), default=0)
        self._reading = _Asked(self.position, seen, again, self._line_broke)
        self._line_broke = False
        self._asked_after = len(self._pending)
        want = Want.HEAL if epoch else Want.POSITION  # nothing was missed before there was a position
        return [ReadRequest(self.channel, want, self.position)]

    # Inside: every change of phase or position is above and here

    def _place(self, member: Member) -> None:
        """A connection stands where the feed does."""
        self._ahead.pop(member, None)
        self._with[member.protocol][member] = None

    def _advance(self, record: Record) -> list[ReadRequest]:
        if record.position is None:
            if self._line_behind is None:  # or it was published before what history gave already (3.2)
                self._hand_on(record)
            return []
        behind = self._line_behind
        if behind is not None and record.position.epoch == behind.epoch and record.position.seq >= behind.seq:
            self._line_behind = None
        if record.position.epoch == self.position.epoch and record.position.seq <= self.position.seq:
            pass  # seen already (contract 3.1)
        elif record.position == (self.position.epoch, self.position.seq + 1):
            self._hand_on(record)
        else:
            self._wait(record)
            return self.heal()
        return []

    def _hand_on(self, record: Record) -> None:
        self.quiet = False
        delivery = Delivery(record, self._label)
        if record.position is not None:
            self.position = record.position
        for protocol, members in self._with.items():
            if members:
                frame = delivery.frame(protocol)
                for member in members:
                    if record.origin not in member.own:
                        member.sink.send(frame)
                    else:
                        _send(member, delivery)
        if self._ahead:
            self._hand_on_to_ahead(delivery)
        for joining in self._joining.values():
            joining.keep(delivery)

    def _complete(self, records: Iterable[Record], *, may_come_yet: bool) -> None:
        """Hand on what a read has found, and before each record what came before it and has no position (3.2).

        History does not have the latter. Where a record has not come yet, nobody knows what of what waits without a
        position came before it: that is forgotten, and so is what comes before the record does (`may_come_yet`: the
        line is whole, so it will). At most once is promised, and the order.
        """
        waiting = self._pending  # nothing comes while this runs, and it may be long: one walk through it
        places = {record.position: place for place, record in reversed([*enumerate(waiting)])}
        taken, is_ahead = 0, False
        for record in records:
            if record.position is None or record.position.seq <= self.position.seq:
                continue
            place = places.get(record.position, -1)
            is_ahead = place < taken
            if not is_ahead:
                for before in waiting[taken:place]:
                    if before.position is None:
                        self._hand_on(before)
                taken = place + 1
            self._hand_on(record)
        if is_ahead:
            taken += next((i for i, each in enumerate(waiting[taken:]) if each.position), len(waiting) - taken)
            self._line_behind = self.position if may_come_yet else None
        self._take_pending(taken)

    def _take_pending(self, count: int) -> list[Record]:
        taken, self._pending = self._pending[:count], self._pending[count:]
        self._pending_bytes = sum(map(_weight, self._pending))
        self._asked_after = max(0, self._asked_after - count)
        return taken

    def _hand_on_to_ahead(self, delivery: Delivery) -> None:
        position = delivery.record.position
        for member, at in list(self._ahead.items()):
            if position is None:
                continue  # it was published before the last that this connection got: see `enter`
            if position.epoch == at.epoch and position.seq >= at.seq:
                if position.seq > at.seq:
                    _send(member, delivery)
                self._place(member)

    def _rewind(self, at: Position) -> None:
        """Go back to an older position, for a connection that has only come so far; the others are ahead of it.

        Two connections that join at once read at different moments, and the later one may be attached first.
        """
        for members in self._with.values():
            for member in members:
                self._ahead[member] = self.position
            members.clear()
        self.position = at

    def _wait(self, record: Record) -> None:
        if self.phase is Phase.UNPLACED and not self._joining:
            return  # whoever joins later reads it from the history
        self._pending.append(record)
        self._pending_bytes += _weight(record)
        if self._pending_bytes > PENDING_BYTES:
            self._pending.clear()
            self._pending_bytes = self._asked_after = 0
            self.unsure = self._line_broke = True  # what was forgotten has come, and does not come again

    def _resume(self) -> list[ReadRequest]:
        """The feed knows its place (again): hand on what waited; a hole in it heals once more."""
        self.phase = Phase.LIVE
        if self.unsure:
            self.unsure = False
            return self.heal()
        for member, at in list(self._ahead.items()):
            if at.epoch != self.position.epoch:
                self._skip(member)  # what it joined in is over
            elif at == self.position:
                self._place(member)
        waited, self._pending, self._pending_bytes = self._pending, [], 0
        known, self._asked_after = self._asked_after, 0
        for index, record in enumerate(waited):
            if index < known and record.position is not None and record.position.epoch != self.position.epoch:
                continue  # Redis was asked after it had come, and its epoch was over by then
            if requests := self._advance(record):
                for later in waited[index + 1 :]:
                    self._wait(later)
                self._asked_after = len(self._pending)
                return requests
        return []

    def _gap(self, position: Position) -> None:
        """Skip to a position: what is missing before it cannot be had any more."""
        if position.epoch != self.position.epoch:
            self._line_behind = None
        self.position = position
        frame = gap_frame(self.label, position)
        for member in self._with[Protocol.V1]:
            member.sink.send(frame)
        for member, at in list(self._ahead.items()):
            if at.epoch != position.epoch or at.seq < position.seq:  # others have read the new epoch themselves
                self._skip(member)

    def _skip(self, member: Member) -> None:
        self._place(member)
        if member.protocol is Protocol.V1:
            member.sink.send(gap_frame(self.label, self.position))


def _weight(record: Record) -> int:
    return len(record.body) + RECORD_BYTES


def _frame(member: Member, delivery: Delivery) -> Frame | None:
    """What a connection gets of a message, if anything: a sender does not get its own one back (contract 6.5)."""
    if delivery.record.origin not in member.own:
        return delivery.frame(member.protocol)
    return delivery.skip if member.protocol is Protocol.V1 else None


def _send(member: Member, delivery: Delivery) -> None:
    if (frame := _frame(member, delivery)) is not None:
        member.sink.send(frame)


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

    What does not follow without a hole is left to the healing of the feed.
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
