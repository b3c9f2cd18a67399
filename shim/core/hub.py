"""The hub: which local connections listen to which topic.

Theory of operation. One hub serves one process. It does no I/O: what it wants done it returns as effects, and what it
sends to a connection goes through the connection's `Sink`. The owner calls it from one thread at a time.

A topic with at least one local connection is *wanted*: the hub asks for SUBSCRIBE, counts the confirmations
(contract 2.1), and forgets the topic when its last connection leaves. In between a `Feed` follows it: what each
connection gets of a topic, and in which order, is decided there.

What is said to all processes (sign-outs, flips) is a topic, too, and the process listens to it as long as it lives. So
a sign-out that was said while the subscription was down is read from its history afterwards (contract 7.5).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from shim.core.feed import Feed, Phase
from shim.core.history import ReadRequest, ReadResult
from shim.core.member import Member
from shim.core.names import CONTROL, Topic, control_channel
from shim.core.protocol import Frame, Protocol
from shim.core.wire import Position, Record, decode

CHECK_CALLS: Final = 40
"""Calls of `check` in which each quiet topic is looked at once."""


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


class Hub:
    """Topics and the connections of this process. Not thread-safe: the owner serialises the calls."""

    def __init__(self, prefix: str, *, control: Callable[[bytes], None] | None = None) -> None:
        """Make a hub without connections.

        Args:
            prefix: first part of all Redis names (`REALTIME_PREFIX`).
            control: is given what is said to all processes, each once and in order; it must not raise. It is called
                while the hub is, so it must not call the hub.
        """
        self.prefix = prefix
        self.up = False
        self._feeds: dict[str, Feed] = {}
        self._control = Feed(control_channel(prefix), CONTROL)
        if control is not None:
            self._control.stand(_Listener(control))
            self._feeds[self._control.channel] = self._control
        self._feeds_of: dict[Member, tuple[Feed, ...]] = {}
        self._unconfirmed: Counter[str] = Counter()
        self._to_check: list[Feed] = []
        self._checks = self._calls = 0

    def __len__(self) -> int:
        """How many topics connections want."""
        return len(self._feeds) - (self._control.channel in self._feeds)

    # The bus

    def connected(self) -> Sequence[Effect]:
        """Redis is there, for the first time or again: everything has to be asked for anew (contract 7.4)."""
        self.up = True
        channels = tuple(self._feeds)
        self._unconfirmed = Counter(channels)
        return [Subscribe(channels)] if channels else []

    def disconnected(self) -> None:
        """Redis is gone. Connections stay (contract 7.3); nothing counts as confirmed any more."""
        self.up = False
        self._unconfirmed = Counter(self._feeds.keys())
        for feed in self._feeds.values():
            feed.break_off()

    def confirmed(self, channel: str) -> Sequence[Effect]:
        """Redis has confirmed one SUBSCRIBE."""
        self._unconfirmed[channel] -= 1
        if self._unconfirmed[channel] > 0:
            return []  # an older SUBSCRIBE, before an UNSUBSCRIBE that is still on its way
        del self._unconfirmed[channel]
        feed = self._feeds.get(channel)
        if feed is None:
            return []
        for member in list(feed.wanted_by):
            if member in self._feeds_of and self.is_subscribed(member):
                member.sink.subscribed()
        return _read(feed.heal()) if feed.phase is not Phase.UNPLACED else []

    def message(self, channel: str, data: bytes) -> Sequence[Effect]:
        """A message has arrived.

        Raises:
            WireError: it is not a record; nothing has changed.
        """
        feed = self._feeds.get(channel)
        if feed is None:
            return []  # unsubscribed a moment ago
        record = self._decode(channel, data)
        if feed is self._control and record.position is None:
            feed.hand_on_now(record)  # a flip must not wait for a history that it is not in (contract 8.2)
            return []
        return _read(feed.message(record))

    def healed(self, result: ReadResult) -> Sequence[Effect]:
        """The history that was asked for is here: hand it on, then what waited."""
        feed = self._feeds.get(result.channel)
        return _read(feed.healed(result)) if feed is not None else []

    def unhealed(self, channel: str) -> None:
        """The history could not be read: `retry` will ask again."""
        feed = self._feeds.get(channel)
        if feed is not None:
            feed.unhealed()

    def retry(self) -> Sequence[Effect]:
        """Ask again for what healing topics still wait for. Call it every second or so."""
        effects: list[Effect] = []
        if self.up:
            for feed in self._feeds.values():
                if feed.phase is Phase.HEALING and not feed.waits_for_answer and not self._unconfirmed[feed.channel]:
                    effects += _read(feed.heal())
        return effects

    def check(self) -> Sequence[Effect]:
        """Look whether quiet topics still stand where Redis does; call it every second.

        A hole is seen when the next message comes; this finds one that no message follows (contract 7.4), and keeps
        the epoch of a topic alive that nobody publishes to.
        """
        if self._calls == 0:  # of few topics one after the other, then none for the rest of the calls
            self._to_check, self._calls = list(self._feeds.values()), CHECK_CALLS
            self._checks = -(-len(self._to_check) // CHECK_CALLS)
        self._calls -= 1
        batch, self._to_check = self._to_check[: self._checks], self._to_check[self._checks :]
        requests: list[ReadRequest] = []
        for feed in batch:
            if feed.quiet and feed.phase is Phase.LIVE and self.up and self._feeds.get(feed.channel) is feed:
                requests += feed.heal()
            feed.quiet = True
        return _read(requests)

    # Connections

    def subscribe(self, member: Member, topics: Iterable[Topic]) -> Sequence[Effect]:
        """A connection wants these topics: the first step. Its sink hears `subscribed` when Redis has confirmed.

        Raises:
            InvalidAudience: the wire has no name for one of them; nothing has changed.
        """
        fresh: list[str] = []
        wanted: dict[str, Feed] = {}
        for channel, topic in [(self._channel(topic), topic) for topic in topics]:
            feed = self._feeds.get(channel)
            if feed is None:
                feed = self._feeds[channel] = self._feed(channel, topic.label)
                self._unconfirmed[channel] += 1
                fresh.append(channel)
            feed.wanted_by[member] = None
            wanted[channel] = feed
        self._feeds_of[member] = tuple(wanted.values())
        if self.is_subscribed(member):
            member.sink.subscribed()
        return [Subscribe(tuple(fresh))] if fresh and self.up else []

    def is_subscribed(self, member: Member) -> bool:
        """Whether Redis has confirmed all of a connection's topics (contract 2.1)."""
        return self.up and not any(self._unconfirmed[feed.channel] for feed in self._feeds_of[member])

    def begin(self, member: Member, resume: Mapping[str, Position] | None = None) -> list[ReadRequest]:
        """Second step of joining: keep what is handed on from now on, and say what to read.

        Args:
            resume: the positions that a v1 client came back with, by label.

        Returns:
            One request for each topic; give the answers to `attach`.
        """
        return [feed.begin(member, resume.get(feed.label) if resume else None) for feed in self._feeds_of[member]]

    def attach(
        self, member: Member, results: Iterable[ReadResult], resume: Mapping[str, Position] | None = None
    ) -> Sequence[Effect]:
        """Last step of joining: hand over the past, then what came meanwhile, then live messages.

        A connection that left in between is ignored.
        """
        if member not in self._feeds_of:
            return []
        by_channel = {result.channel: result for result in results}
        positions: dict[str, Position] = {}
        recovered: dict[str, bool] = {}
        past: dict[Feed, tuple[Record, ...]] = {}
        for feed in self._feeds_of[member]:
            result = by_channel[feed.channel]
            positions[feed.label] = result.position
            past[feed] = result.records
            if resume and feed.label in resume:
                recovered[feed.label] = result.completes(resume[feed.label])
                if not recovered[feed.label]:
                    past[feed] = ()  # never part of it (contract 5.3)
        member.joined(positions, recovered)
        effects: list[Effect] = []
        for feed, records in past.items():
            effects += _read(feed.enter(member, positions[feed.label], records))
        return effects

    def unsubscribe(self, member: Member) -> Sequence[Effect]:
        """A connection has left. Topics that nobody wants any more are dropped. Idempotent."""
        gone: list[str] = []
        for feed in self._feeds_of.pop(member, ()):
            feed.leave(member)
            if not feed.wanted_by:
                del self._feeds[feed.channel]
                gone.append(feed.channel)
        return [Unsubscribe(tuple(gone))] if gone and self.up else []

    # What another wire does otherwise: `shim.core.live`

    def _channel(self, topic: Topic) -> str:
        return topic.channel(self.prefix)

    def _feed(self, channel: str, label: str) -> Feed:
        return Feed(channel, label)

    def _decode(self, channel: str, data: bytes) -> Record:
        del channel  # it makes no difference here
        return decode(data)


class _Listener:
    """The process, as a member of the control topic."""

    protocol = Protocol.RAW
    own: frozenset[str] = frozenset()
    wants_last = False
    last_heard = 0.0

    def __init__(self, control: Callable[[bytes], None]) -> None:
        self.sink = self
        self._control = control

    def joined(self, positions: Mapping[str, Position | None], recovered: Mapping[str, bool]) -> None:
        """See `Member`: it does not join, it is there."""

    def send(self, frame: Frame) -> None:
        """See `Sink`."""
        self._control(frame.data)

    def send_batch(self, frames: Sequence[Frame]) -> None:
        """See `Sink`."""
        for frame in frames:
            self.send(frame)

    def ping(self) -> None:
        """See `Sink`."""

    def close(self, code: int, reason: str) -> None:
        """See `Sink`."""

    def subscribed(self) -> None:
        """See `Sink`."""


def _read(requests: Sequence[ReadRequest]) -> list[Effect]:
    return [Read(tuple(requests))] if requests else []
