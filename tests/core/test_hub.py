"""The hub against a Redis that is all there is to know about Redis: a log, a position, a line that can break."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)

from shim.core.history import ReadRequest, ReadResult, Want
from shim.core.hub import Effect, Hub, Read, Subscribe, Unsubscribe
from shim.core.member import Sink
from shim.core.message import Kind
from shim.core.names import Everyone, Group, Topic, User, control_channel
from shim.core.protocol import Frame, Protocol
from shim.core.wire import Position, Record, encode

TOPICS = (Topic("calls", Everyone()), Topic("calls", User("ana")), Topic("calls", Group("a:b")))
SIZE = 6
CONTROL_CHANNEL = control_channel("rt")
SENDERS = (None, "me", "was", "other")
owns = st.sampled_from([frozenset[str](), frozenset({"me"}), frozenset({"me", "was"})])  # contract 6.5


class Member:
    """A connection that writes down what it gets."""

    def __init__(self, id: str, protocol: Protocol, own: frozenset[str] = frozenset(), *, last: bool = False) -> None:
        self.id = id
        self.protocol = protocol
        self.own = own
        self.wants_last = last or protocol is Protocol.RAW
        self.sink: Sink = self
        self.last_heard = 0.0
        self.confirmed = False
        self.positions: dict[str, Position | None] | None = None
        self.recovered: dict[str, bool] = {}
        self.frames: list[Frame] = []

    def send(self, frame: Frame) -> None:
        assert self.positions is not None, "a frame before the connection was attached"
        self.frames.append(frame)

    def send_batch(self, frames: Sequence[Frame]) -> None:
        for frame in frames:
            self.send(frame)

    def ping(self) -> None:
        raise AssertionError

    def close(self, code: int, reason: str) -> None:
        raise AssertionError

    def subscribed(self) -> None:
        self.confirmed = True

    def joined(self, positions: Mapping[str, Position | None], recovered: Mapping[str, bool]) -> None:
        assert self.positions is None, "attached twice"
        self.positions, self.recovered = dict(positions), dict(recovered)

    def heard(self) -> list[dict[str, Any]]:
        return [json.loads(frame.data) for frame in self.frames]

    def texts(self) -> list[str]:
        return [frame.string for frame in self.frames]


@dataclass
class Log:
    """One topic on Redis."""

    epoch: str = "e1"
    seq: int = 0
    records: list[Record] = field(default_factory=list)


class Redis:
    """Topics, one subscriber, and the line to it."""

    def __init__(self) -> None:
        self.logs = {channel: Log() for channel in (*(topic.channel("rt") for topic in TOPICS), CONTROL_CHANNEL)}
        self.subscribed: set[str] = set()
        self.line: list[tuple[str, str, bytes]] = []  # what is on its way to the subscriber
        self.up = True
        self.epochs = 1

    def publish(self, channel: str, *, history: bool, body: str, origin: str | None = None) -> Record:
        log = self.logs[channel]
        position = None
        if history:
            log.seq += 1
            position = Position(log.epoch, log.seq)
        record = Record(Kind.TEXT, body.encode(), position, origin)
        if history:
            log.records = [*log.records, record][-SIZE:]
        if channel in self.subscribed:
            self.line.append(("message", channel, encode(record)))
        return record

    def read(self, request: ReadRequest) -> ReadResult:
        log = self.logs[request.channel]
        position = Position(log.epoch, log.seq)
        after = request.after
        if request.want is Want.LAST:
            return ReadResult(request.channel, position, tuple(log.records[-1:]))
        if request.want is Want.AFTER:
            assert after is not None
            records = tuple(r for r in log.records if r.position and r.position.seq > after.seq)
            result = ReadResult(request.channel, position, records)
            return result if result.completes(after) else ReadResult(request.channel, position)
        if request.want is Want.HEAL:
            assert after is not None
            if after.epoch == log.epoch and after.seq > log.seq:
                self.new_epoch(log)
                log.records = []
                return ReadResult(request.channel, Position(log.epoch, log.seq))
            floor = after.seq if after.epoch == log.epoch else 0
            return ReadResult(
                request.channel, position, tuple(r for r in log.records if r.position and r.position.seq > floor)
            )
        return ReadResult(request.channel, position)

    def new_epoch(self, log: Log) -> None:
        self.epochs += 1
        log.epoch = f"e{self.epochs}"


class HubMachine(RuleBasedStateMachine):
    """Any interleaving of publishing, joining, leaving, healing, breaking lines and losing data."""

    members = Bundle("members")

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[bytes] = []
        self.hub = Hub("rt", control=self.heard.append)
        self.redis = Redis()
        self.said: list[bytes] = []
        self.reads: list[ReadRequest] = []
        self.alive: dict[Member, dict[str, Topic]] = {}
        self.asked: dict[Member, list[ReadResult]] = {}
        self.answers: list[ReadResult] = []
        self.resumes: dict[Member, dict[str, Position]] = {}
        self.lasts: dict[Member, dict[str, tuple[str, str | None]]] = {}
        self.after_ready: dict[Member, list[tuple[str, Record]]] = {}
        self.ready_at: dict[Member, int] = {}
        self.count = 0
        self.origins: dict[str, str | None] = {}  # by text
        self.origins_at: dict[tuple[str, Position], str | None] = {}
        self.lossless = True

    def perform(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Subscribe(channels):
                    for channel in channels:
                        self.redis.subscribed.add(channel)
                        self.redis.line.append(("subscribe", channel, b""))
                case Unsubscribe(channels):
                    self.redis.subscribed -= set(channels)
                case Read(requests):
                    self.reads.extend(requests)

    @initialize()
    def connect(self) -> None:
        self.redis.publish(CONTROL_CHANNEL, history=True, body="before this process began")
        self.perform(self.hub.connected())
        self.settle()

    @rule()
    def say(self) -> None:
        """Something is said to all processes."""
        self.count += 1
        body = f"said {self.count}"
        self.redis.publish(CONTROL_CHANNEL, history=True, body=body)
        self.said.append(body.encode())

    @rule(
        target=members,
        protocol=st.sampled_from(Protocol),
        topics=st.lists(st.sampled_from(TOPICS), min_size=1, max_size=3, unique=True),
        own=owns,
        last=st.booleans(),
    )
    def subscribe(self, protocol: Protocol, topics: list[Topic], own: frozenset[str], last: bool) -> Member:
        self.count += 1
        member = Member(f"c{self.count}", protocol, own, last=last)
        self.alive[member] = {topic.channel("rt"): topic for topic in topics}
        self.perform(self.hub.subscribe(member, topics))
        return member

    @rule(
        target=members,
        protocol=st.sampled_from(Protocol),
        topics=st.lists(st.sampled_from(TOPICS), min_size=1, max_size=3, unique=True),
        own=owns,
        last=st.booleans(),
        back=st.integers(0, SIZE + 2),
    )
    def join(self, protocol: Protocol, topics: list[Topic], own: frozenset[str], last: bool, back: int) -> Any:
        """All steps at once, as it mostly goes."""
        member: Any = self.subscribe(protocol, topics, own, last)
        while self.redis.line and not member.confirmed:
            self.arrive(1)
        self.begin(member, back)
        self.attach(member)
        return member

    @rule(member=members, back=st.integers(0, SIZE + 2))
    def begin(self, member: Member, back: int) -> None:
        if member not in self.alive or member in self.asked or member.positions is not None or not member.confirmed:
            return
        resume = {}
        if member.protocol is Protocol.V1 and back:
            for channel, topic in self.alive[member].items():
                log = self.redis.logs[channel]
                resume[topic.label] = Position(log.epoch, log.seq - back + 1)
        self.resumes[member] = resume
        self.asked[member] = [self.redis.read(r) for r in self.hub.begin(member, resume)]
        self.lasts[member] = {
            self.alive[member][result.channel].label: (result.records[-1].body.decode(), result.records[-1].origin)
            for result in self.asked[member]
            if result.records
        }
        # What the client saw as the end of its handshake: everything published from here on is due (contract 2.1).
        self.after_ready[member] = []

    @rule(member=members)
    def attach(self, member: Member) -> None:
        if member not in self.alive or member not in self.asked:
            return
        results = self.asked.pop(member)
        self.perform(self.hub.attach(member, results, self.resumes[member]))

    @rule(member=consumes(members))
    def leave(self, member: Member) -> None:
        if self.alive.pop(member, None) is not None:
            self.asked.pop(member, None)
            self.perform(self.hub.unsubscribe(member))

    @rule(
        topic=st.sampled_from(TOPICS),
        history=st.sampled_from([True, True, True, False]),
        origin=st.sampled_from(SENDERS),
    )
    def publish(self, topic: Topic, history: bool, origin: str | None) -> None:
        self.count += 1
        channel = topic.channel("rt")
        record = self.redis.publish(channel, history=history, body=f"m{self.count}", origin=origin)
        self.origins[f"m{self.count}"] = origin
        if record.position is not None:
            self.origins_at[topic.label, record.position] = origin
        for member, due in self.after_ready.items():
            if channel in self.alive.get(member, {}):
                due.append((channel, record))

    @precondition(lambda self: self.redis.line)
    @rule(n=st.integers(1, 5))
    def arrive(self, n: int) -> None:
        for _ in range(min(n, len(self.redis.line))):
            what, channel, data = self.redis.line.pop(0)
            self.perform(self.hub.confirmed(channel) if what == "subscribe" else self.hub.message(channel, data))

    @precondition(lambda self: self.reads)
    @rule(works=st.booleans())
    def read(self, works: bool) -> None:
        request = self.reads.pop(0)
        if works and self.redis.up:
            self.answers.append(self.redis.read(request))
        else:
            self.hub.unhealed(request.channel)

    @precondition(lambda self: self.answers)
    @rule()
    def healed(self) -> None:
        self.perform(self.hub.healed(self.answers.pop(0)))

    @rule()
    def retry(self) -> None:
        self.perform(self.hub.retry())

    @rule()
    def check(self) -> None:
        self.perform(self.hub.check())

    @rule(really=st.sampled_from([False, False, True]))
    def line_breaks(self, really: bool) -> None:
        if not really:
            return
        self.redis.line.clear()
        self.redis.subscribed.clear()
        self.hub.disconnected()
        self.redis.up = False

    @precondition(lambda self: not self.redis.up)
    @rule()
    def line_mends(self) -> None:
        if self.redis.up:
            return
        self.redis.up = True
        self.perform(self.hub.connected())

    @rule(topic=st.sampled_from(TOPICS), really=st.sampled_from([False, False, False, True]))
    def redis_forgets(self, topic: Topic, really: bool) -> None:
        """All of the topic is gone: a flush, or a restart without persistence."""
        if not really:
            return
        self.lossless = False
        log = self.redis.logs[topic.channel("rt")]
        self.redis.new_epoch(log)
        log.seq, log.records = 0, []

    @invariant()
    def nothing_twice_or_out_of_order(self) -> None:  # contract 3.1, 3.2, 5.2, 5.3
        for member in self.alive:
            if member.protocol is Protocol.RAW:
                texts = member.texts()
                assert len(set(texts)) == len(texts), f"{member.id} got something twice: {texts}"
                continue
            bodies = [frame["text"] for frame in member.heard() if frame["op"] == "msg"]
            assert len(set(bodies)) == len(bodies), f"{member.id} got something twice: {bodies}"
            at: dict[str, Any] = {label: tuple(p) for label, p in (member.positions or {}).items() if p}
            for label, done in member.recovered.items():
                if done:
                    at[label] = tuple(self.resumes[member][label])
            for frame in member.heard():
                label, pos = str(frame["topic"]), frame["pos"]
                if frame["op"] == "gap":
                    at[label] = tuple(pos)
                elif pos is not None:
                    epoch, seq = at[label]
                    assert list(pos) == [epoch, seq + 1], f"{member.id} {label}: {pos} after {at[label]}"
                    at[label] = (epoch, seq + 1)

    @invariant()
    def the_last_message_comes_first_to_who_wants_it(self) -> None:  # contract 5.2
        for member in self.alive:
            if member.protocol is Protocol.V1 and not self.resumes.get(member) and member.positions is not None:
                firsts: dict[str, str] = {}
                for frame in member.heard():
                    if frame["op"] == "msg":
                        firsts.setdefault(frame["topic"], frame["text"])
                for label, (body, origin) in self.lasts.get(member, {}).items():
                    if member.wants_last and origin not in member.own:
                        assert firsts[label] == body, f"{member.id} did not get the last message of {label} first"

    @invariant()
    def what_is_said_to_all_processes_is_heard_in_order(self) -> None:  # contract 7.5
        assert self.heard == [body for body in self.said if body in self.heard]

    @invariant()
    def own_messages_are_positions_at_most(self) -> None:  # contract 6.5
        for member in self.alive:
            if member.protocol is Protocol.RAW:
                assert not any(self.origins.get(text) in member.own for text in member.texts())
                continue
            for frame in member.heard():
                if frame["op"] == "msg":
                    assert self.origins.get(frame["text"]) not in member.own
                elif frame["op"] == "skip":
                    assert self.origins_at[frame["topic"], Position(*frame["pos"])] in member.own

    def settle(self) -> None:
        """Let the line mend and everything on its way arrive."""
        if not self.redis.up:
            self.line_mends()
        for member in list(self.alive):
            if member in self.asked:
                self.attach(member)
        for _ in range(1_000):
            if self.redis.line:
                self.arrive(5)
            elif self.reads:
                self.read(works=True)
            elif self.answers:
                self.healed()
            else:
                before = len(self.reads)
                self.retry()
                if len(self.reads) == before:
                    return
        raise AssertionError("the hub does not come to rest")

    def missing(self, member: Member) -> list[Record]:
        """What a connection should have got and did not, nor was told of."""
        skipped = set()
        if member.protocol is Protocol.V1:
            heard = member.heard()
            if any(frame["op"] == "gap" for frame in heard):
                return []  # it was told (contract 7.4)
            got = {str(frame.get("text")) for frame in heard}
            skipped = {(frame["topic"], Position(*frame["pos"])) for frame in heard if frame["op"] == "skip"}
        else:
            got = set(member.texts())
        return [
            record
            for channel, record in self.after_ready[member]
            if record.position is not None
            and record.body.decode() not in got
            and (self.alive[member][channel].label, record.position) not in skipped
            and not (member.protocol is Protocol.RAW and record.origin in member.own)
            # A raw client cannot be told: it gets all that history can give, which is all when nothing was cut off.
            and (member.protocol is Protocol.V1 or (self.lossless and self.redis.logs[channel].seq <= SIZE))
        ]

    def teardown(self) -> None:
        # Without any further message: breaks and holes heal by themselves (contract 7.4).
        self.settle()
        if self.redis.logs[CONTROL_CHANNEL].seq <= SIZE:
            assert self.heard == self.said
        attached = [member for member in self.alive if member.positions is not None]
        for member in attached:
            assert not self.missing(member), f"{member.id} lost {self.missing(member)}"
        # One more message for each topic shows whether the hub still follows it (a fence).
        fences = {
            topic.channel("rt"): self.redis.publish(topic.channel("rt"), history=True, body=topic.tag)
            for topic in TOPICS
        }
        self.settle()
        for member in attached:
            heard = (
                [str(frame.get("text")) for frame in member.heard()]
                if member.protocol is Protocol.V1
                else member.texts()
            )
            for channel in self.alive[member]:
                assert fences[channel].body.decode() in heard, f"{member.id} does not hear {channel} any more"
            self.nothing_twice_or_out_of_order()
        for member in list(self.alive):
            self.perform(self.hub.unsubscribe(member))
        assert len(self.hub) == 0
        self.alive.clear()
        assert len(self.hub) == 0


TestHub = HubMachine.TestCase
TestHub.settings = settings(
    max_examples=300, stateful_step_count=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much]
)
