"""Hub and feed on a wire without positions (`REALTIME_WIRE = "ws4redis"`): messages go out as they come.

Nothing can be healed, and nobody can resume. What is left to get right is the moment in which a connection joins.
The last message of a topic is read while the topic is heard already, so it may also be among what was heard meanwhile,
or still be on its way. Therefore each read leaves a *mark* among what is published (`Want.MARK`), in the same
transaction, on a channel that this process listens to:

* what is heard before the mark was published before the read. If the last message is among it, it is delivered in its
  place there, and not once more at the beginning;
* what is heard after the mark was published after the read, and is news, even if it is equal to the last message.

The connection is attached when both are there, the answer and the mark.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from shim.core.errors import WireError
from shim.core.feed import PENDING_BYTES, Feed, Phase
from shim.core.history import ReadRequest, ReadResult, Want
from shim.core.hub import Effect, Hub, Subscribe
from shim.core.member import Member
from shim.core.names import Topic
from shim.core.protocol import Close
from shim.core.wire import Position, Record, decode
from shim.core.wires import NOWHERE, Wire, Ws4redisWire

type _Past = Mapping[str, tuple[Record, ...]]


class LiveFeed(Feed):
    """One topic of one process, without positions."""

    def __init__(self, channel: str, label: str) -> None:
        """Make a feed that nobody listens to yet."""
        super().__init__(channel, label)
        self.phase = Phase.LIVE
        self.position = NOWHERE
        self._before: dict[Member, frozenset[bytes]] = {}

    def mark(self, member: Member) -> None:
        """What comes from now on was published after the connection's past was read."""
        joining = self._joining.get(member)
        if joining is not None:
            self._before[member] = frozenset(delivery.record.body for delivery in joining.kept)

    def enter(self, member: Member, at: Position, past: Iterable[Record]) -> list[ReadRequest]:
        """Hand over the last message, unless it was heard meanwhile, then what was heard; live messages follow."""
        before = self._before.pop(member, frozenset())
        is_too_much = self._joining[member].size > PENDING_BYTES
        super().enter(member, at, [record for record in past if record.body not in before])
        if is_too_much:  # what was kept for it is gone, and nothing else has it
            member.sink.close(Close.OVERLOADED, "more came than can wait: reconnect")
        return []

    def leave(self, member: Member) -> None:
        """A connection is gone."""
        super().leave(member)
        self._before.pop(member, None)

    def heal(self) -> list[ReadRequest]:
        """There is no history to be asked."""
        return []


@dataclass(slots=True)
class _Joining:
    """A connection on its way in: whether its mark was heard, and its past once that is read."""

    mark: str
    is_marked: bool = False
    past: _Past | None = None


class LiveHub(Hub):
    """Topics and connections of a process, on a wire without positions. Not thread-safe, as `Hub`."""

    def __init__(
        self, prefix: str, wire: Ws4redisWire, *, name: str, control: Callable[[bytes], None] | None = None
    ) -> None:
        """Make a hub without connections.

        Args:
            prefix, control: as for `Hub`.
            wire: names the channels, and reads what comes.
            name: of the process, and of no other one.
        """
        super().__init__(prefix, control=control)
        self._wire = wire
        self._marks = f"{prefix}:mark:{name}"
        self._marked = 0
        self._hears_marks = False
        self._joining: dict[Member, _Joining] = {}

    def connected(self) -> Sequence[Effect]:
        """Redis is there: the marks are heard before any topic is."""
        return [Subscribe((self._marks,)), *super().connected()]

    def disconnected(self) -> None:
        """Redis is gone: no mark will come of what was asked so far."""
        super().disconnected()
        self._hears_marks = False
        for member in list(self._joining):
            self._mark(member)

    def confirmed(self, channel: str) -> Sequence[Effect]:
        """Redis has confirmed one SUBSCRIBE."""
        self._hears_marks = self._hears_marks or channel == self._marks
        return super().confirmed(channel)

    def message(self, channel: str, data: bytes) -> Sequence[Effect]:
        """A message, or a mark, has arrived. What ws4redis would not deliver is passed over without a word.

        Raises:
            WireError: it was said to all processes, and is no message; nothing has changed.
        """
        if channel != self._marks:
            try:
                return super().message(channel, data)
            except WireError:
                if channel == self._control.channel:
                    raise
                return []  # old processes may send it often, and the channel's name may hold a session's key
        mark = data.decode(errors="replace")
        for member in [member for member, joining in self._joining.items() if joining.mark == mark]:
            self._mark(member)
        return []

    def begin(self, member: Member, resume: Mapping[str, Position] | None = None) -> list[ReadRequest]:
        """Keep what is handed on from now on, and say what to read: last messages, and nothing after a position."""
        del resume  # there are none
        requests = [request for request in super().begin(member) if request.want is Want.LAST]
        if not requests:
            return []
        self._marked += 1
        # While the subscription is down, or not confirmed yet, the mark may be left where nobody hears it.
        joining = self._joining[member] = _Joining(str(self._marked), is_marked=not self._hears_marks)
        return [*requests, ReadRequest(self._marks, Want.MARK, mark=joining.mark)]

    def attach(
        self, member: Member, results: Iterable[ReadResult], resume: Mapping[str, Position] | None = None
    ) -> Sequence[Effect]:
        """Hand over the past, as soon as the mark is there, too."""
        past = {result.channel: result.records for result in results if result.records}
        joining = self._joining.get(member)
        if joining is not None and past and not joining.is_marked:
            joining.past = past
        else:
            self._join(member, past, resume or ())
        return []

    def unsubscribe(self, member: Member) -> Sequence[Effect]:
        """A connection has left. Idempotent."""
        self._joining.pop(member, None)
        return super().unsubscribe(member)

    # Inside

    def _channel(self, topic: Topic) -> str:
        return self._wire.channel(topic)

    def _feed(self, channel: str, label: str) -> Feed:
        return LiveFeed(channel, label)

    def _decode(self, channel: str, data: bytes) -> Record:
        is_ours = channel == self._control.channel  # what processes say to each other is on our own wire
        return decode(data) if is_ours else self._wire.decode(channel, data)

    def _mark(self, member: Member) -> None:
        joining = self._joining[member]
        joining.is_marked = True
        for feed in self._feeds_of[member]:
            if isinstance(feed, LiveFeed):
                feed.mark(member)
        if joining.past is not None:
            self._join(member, joining.past, ())

    def _join(self, member: Member, past: _Past, resumed: Iterable[str]) -> None:
        self._joining.pop(member, None)
        if member not in self._feeds_of:
            return  # it left in between
        feeds = self._feeds_of[member]
        asked = frozenset(resumed)
        member.joined(
            {feed.label: None for feed in feeds}, {feed.label: False for feed in feeds if feed.label in asked}
        )
        for feed in feeds:
            feed.enter(member, NOWHERE, past.get(feed.channel, ()))


def hub_for(wire: Wire, prefix: str, *, name: str, control: Callable[[bytes], None] | None = None) -> Hub:
    """The hub that a wire needs; for the arguments see `Hub` and `LiveHub`."""
    if isinstance(wire, Ws4redisWire):
        return LiveHub(prefix, wire, name=name, control=control)
    return Hub(prefix, control=control)
