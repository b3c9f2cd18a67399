"""Hub and feed without positions, on a Redis that is played here: what is on its way arrives when the test says so."""

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shim.core import feed, live
from shim.core.errors import InvalidAudience, WireError
from shim.core.history import ReadRequest, ReadResult, Want
from shim.core.hub import Effect, Hub, Read, Subscribe, Unsubscribe
from shim.core.live import LiveHub, hub_for
from shim.core.member import Sink
from shim.core.message import Kind
from shim.core.names import Everyone, Topic, User, control_channel
from shim.core.protocol import Close, Frame, Protocol
from shim.core.wire import Position, Record, encode
from shim.core.wires import NOWHERE, RealtimeWire, Ws4redisWire

CHAT, ANA = Topic("chat", Everyone()), Topic("chat", User("ana"))
CHANNEL, ANAS = "broadcast:chat", "user:ana:chat"
MARKS, CONTROL = "rt:mark:p1", control_channel("rt")


class Member:
    def __init__(self, protocol: Protocol = Protocol.RAW, *, own: frozenset[str] = frozenset()) -> None:
        self.protocol = protocol
        self.own = own
        self.wants_last = protocol is Protocol.RAW
        self.sink: Sink = self
        self.last_heard = 0.0
        self.confirmed = False
        self.told: tuple[dict[str, Position | None], dict[str, bool]] | None = None
        self.frames: list[Frame] = []
        self.closed: int | None = None

    def send(self, frame: Frame) -> None:
        assert self.told is not None, "a frame before the connection was attached"
        self.frames.append(frame)

    def send_batch(self, frames: Sequence[Frame]) -> None:
        for frame in frames:
            self.send(frame)

    def ping(self) -> None:
        raise AssertionError

    def close(self, code: int, reason: str) -> None:
        self.closed = code

    def subscribed(self) -> None:
        self.confirmed = True

    def joined(self, positions: Mapping[str, Position | None], recovered: Mapping[str, bool]) -> None:
        assert self.told is None, "attached twice"
        self.told = dict(positions), dict(recovered)

    @property
    def got(self) -> list[str]:
        return [
            frame.string if self.protocol is Protocol.RAW else json.loads(frame.data)["text"] for frame in self.frames
        ]


@dataclass
class Redis:
    """Last messages, one subscriber, and the line to it."""

    kept: dict[str, bytes] = field(default_factory=dict)
    subscribed: set[str] = field(default_factory=set)
    line: deque[tuple[str, bytes | None]] = field(default_factory=deque)

    def publish(self, channel: str, body: bytes, *, keep: bool = True) -> None:
        if keep:
            self.kept[channel] = body
        if channel in self.subscribed:
            self.line.append((channel, body))

    def read(self, requests: Sequence[ReadRequest]) -> list[ReadResult]:
        """One transaction."""
        results = []
        for request in requests:
            if request.want is Want.MARK:
                self.publish(request.channel, request.mark.encode(), keep=False)
            body = self.kept.get(request.channel)
            records = (Record(Kind.TEXT, body),) if body and request.want is Want.LAST else ()
            results.append(ReadResult(request.channel, NOWHERE, records))
        return results


class World:
    def __init__(self) -> None:
        self.redis = Redis()
        self.hub = LiveHub("rt", Ws4redisWire(), name="p1")
        self.up()

    def up(self) -> None:
        self.perform(self.hub.connected())

    def down(self) -> None:
        self.redis.subscribed.clear()
        self.redis.line.clear()
        self.hub.disconnected()

    def perform(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Subscribe(channels):
                    for channel in channels:
                        self.redis.subscribed.add(channel)
                        self.redis.line.append((channel, None))
                case Unsubscribe(channels):
                    self.redis.subscribed -= set(channels)
                case _:
                    raise AssertionError("nothing can be read")

    def arrive(self, count: int = 1_000) -> None:
        for _ in range(min(count, len(self.redis.line))):
            channel, data = self.redis.line.popleft()
            self.perform(self.hub.confirmed(channel) if data is None else self.hub.message(channel, data))

    def opened(self, member: Member, *topics: Topic) -> None:
        self.perform(self.hub.subscribe(member, topics))
        self.arrive()
        assert member.confirmed

    def joined(self, *topics: Topic, protocol: Protocol = Protocol.RAW, **options: Any) -> Member:
        member = Member(protocol, **options)
        self.opened(member, *topics)
        results = self.redis.read(self.hub.begin(member))
        self.perform(self.hub.attach(member, results))
        self.arrive()
        return member


@pytest.fixture
def world() -> World:
    return World()


def test_messages_go_out_as_they_come(world: World) -> None:
    raw, v1 = world.joined(CHAT), world.joined(CHAT, protocol=Protocol.V1)
    for body in (b"1", b"2", b"2"):
        world.redis.publish(CHANNEL, body)
    world.arrive()
    assert raw.got == v1.got == ["1", "2", "2"]
    assert json.loads(v1.frames[0].data) == {"op": "msg", "topic": "everyone", "pos": None, "text": "1"}


def test_a_v1_client_is_told_no_position_and_recovers_nothing(world: World) -> None:  # contract 5.3
    world.redis.kept[CHANNEL] = b"kept"
    member = Member(Protocol.V1)
    world.opened(member, CHAT, ANA)
    resume = {"everyone": NOWHERE, "group:gone": Position("e", 4)}
    assert world.hub.begin(member, resume) == []
    world.hub.attach(member, [], resume)
    assert member.told == ({"everyone": None, "user": None}, {"everyone": False})
    assert member.got == []


def test_of_two_topics_the_last_message_of_each_is_delivered_first(world: World) -> None:  # contract 5.2
    world.redis.kept |= {CHANNEL: b"all", ANAS: b"ana"}
    assert world.joined(CHAT, ANA).got == ["all", "ana"]
    world.redis.kept.clear()
    assert world.joined(CHAT, ANA).got == []


def test_a_connection_without_topics_joins(world: World) -> None:
    assert world.joined().told == ({}, {})
    assert world.joined(protocol=Protocol.V1).told == ({}, {})


class TestTheMomentOfJoining:
    # contract 2.1, 5.2: the last message once, before any live one, never twice

    def test_the_last_message_that_is_still_on_its_way(self, world: World) -> None:
        member = Member()
        world.opened(member, CHAT)
        requests = world.hub.begin(member)
        world.redis.publish(CHANNEL, b"1")
        results = world.redis.read(requests)
        world.redis.publish(CHANNEL, b"2")
        world.hub.attach(member, results)
        assert member.told is None  # the mark is not there yet
        world.arrive()
        assert member.got == ["1", "2"]

    def test_the_last_message_that_was_heard_already(self, world: World) -> None:
        member = Member()
        world.opened(member, CHAT)
        requests = world.hub.begin(member)
        world.redis.publish(CHANNEL, b"0", keep=False)
        world.redis.publish(CHANNEL, b"1")
        world.arrive()
        results = world.redis.read(requests)
        world.arrive()
        assert member.told is None  # the answer is not there yet
        world.hub.attach(member, results)
        assert member.got == ["0", "1"]

    def test_an_equal_one_that_was_published_after_the_read_is_news(self, world: World) -> None:
        world.redis.kept[CHANNEL] = b"ok"
        member = Member()
        world.opened(member, CHAT)
        results = world.redis.read(world.hub.begin(member))
        world.redis.publish(CHANNEL, b"ok")
        world.arrive()
        world.hub.attach(member, results)
        assert member.got == ["ok", "ok"]

    def test_an_old_publisher_that_has_published_and_not_yet_kept(self, world: World) -> None:
        world.redis.kept[CHANNEL] = b"0"
        member = Member()
        world.opened(member, CHAT)
        requests = world.hub.begin(member)
        world.redis.publish(CHANNEL, b"1", keep=False)
        results = world.redis.read(requests)
        world.redis.kept[CHANNEL] = b"1"
        world.arrive()
        world.hub.attach(member, results)
        assert member.got == ["0", "1"]

    def test_redis_is_lost_meanwhile(self, world: World) -> None:
        world.redis.kept[CHANNEL] = b"0"
        waiting, later = Member(), Member()
        for member in (waiting, later):
            world.opened(member, CHAT)
        results = {member: world.redis.read(world.hub.begin(member)) for member in (waiting, later)}
        world.hub.attach(waiting, results[waiting])
        world.down()
        assert waiting.got == ["0"]  # no mark will come
        world.hub.attach(later, results[later])
        assert later.got == ["0"]
        world.up()
        world.redis.publish(CHANNEL, b"1")
        world.arrive()
        assert waiting.got == later.got == ["0", "1"]

    @pytest.mark.parametrize("is_up", [False, True])
    def test_the_mark_is_left_where_nobody_hears_it(self, world: World, is_up: bool) -> None:
        """A v1 client says hello while the subscription is down, or asked for and not confirmed yet."""
        world.redis.kept[CHANNEL] = b"0"
        member = Member()
        world.opened(member, CHAT)
        world.down()
        if is_up:
            asked = world.hub.connected()
        results = world.redis.read(world.hub.begin(member))
        world.perform(asked if is_up else [])
        world.hub.attach(member, results)
        assert member.got == ["0"]
        if not is_up:
            world.up()
        world.redis.publish(CHANNEL, b"1")
        world.arrive()
        assert member.got == ["0", "1"]

    def test_it_leaves_before_it_has_joined(self, world: World) -> None:
        world.redis.kept[CHANNEL] = b"0"
        member = Member()
        world.opened(member, CHAT)
        results = world.redis.read(world.hub.begin(member))
        world.hub.attach(member, results)
        world.perform(world.hub.unsubscribe(member))
        world.arrive()
        world.hub.attach(member, results)
        assert member.told is None
        assert len(world.hub) == 0

    def test_more_came_than_can_wait(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:  # contract 7.2
        for module in (live, feed):
            monkeypatch.setattr(module, "PENDING_BYTES", 3)
        member = Member()
        world.opened(member, CHAT)
        results = world.redis.read(world.hub.begin(member))
        for body in (b"12", b"34"):
            world.redis.publish(CHANNEL, body)
        world.arrive()
        world.hub.attach(member, results)
        assert member.closed == Close.OVERLOADED

    ops = st.lists(
        st.sampled_from(["publish", "publish", "unkept", "equal", "old", "old kept", "arrive", "read", "attach"]),
        max_size=14,
    )

    @given(before=ops, during=ops)
    @example(before=["publish"], during=["publish", "arrive", "read", "arrive", "attach"])
    @example(before=["old"], during=["old kept", "read", "attach", "arrive"])
    def test_whatever_happens_in_between(self, before: list[str], during: list[str]) -> None:
        world, member = World(), Member()
        published: list[str] = []
        halves: list[bytes] = []
        results: list[ReadResult] | None = None
        requests: list[ReadRequest] | None = None
        attached = False

        def play(op: str) -> None:
            nonlocal results, attached
            body = f"{len(published)}".encode()
            match op:
                case "publish" | "unkept":
                    world.redis.publish(CHANNEL, body, keep=op == "publish")
                    published.append(body.decode())
                case "equal" if published:
                    world.redis.publish(CHANNEL, published[-1].encode())
                    published.append(published[-1])
                case "old":
                    world.redis.publish(CHANNEL, body, keep=False)
                    published.append(body.decode())
                    halves.append(body)
                case "old kept" if halves:
                    world.redis.kept[CHANNEL] = halves.pop(0)
                case "arrive":
                    world.arrive(1)
                case "read" if requests is not None and results is None:
                    results = world.redis.read(requests)
                case "attach" if results is not None and not attached:
                    world.perform(world.hub.attach(member, results))
                    attached = True

        for op in before:
            play(op)
        world.opened(member, CHAT)
        known = len(published)
        requests = world.hub.begin(member)
        for op in [*during, "read", "attach"]:
            play(op)
        world.arrive()
        # All that was published since, in order, and before it one message at most: the last.
        since = published[known:]
        assert member.got[len(member.got) - len(since) :] == since
        assert len(member.got) - len(since) in (0, 1)
        past = member.got[: len(member.got) - len(since)]
        assert set(past) <= set(published[:known])
        if "equal" not in [*before, *during]:
            assert len(set(member.got)) == len(member.got)


def test_a_senders_own_message_is_kept_from_it(world: World) -> None:  # contract 6.5
    wire = Ws4redisWire()
    world.hub = LiveHub("rt", wire, name="p1")
    world.up()
    sender, other = world.joined(CHAT, own=frozenset({"c1"})), world.joined(CHAT)
    v1 = world.joined(CHAT, protocol=Protocol.V1, own=frozenset({"c1"}))
    wire.sent.add(CHANNEL, b"mine", "c1")
    for body in (b"mine", b"mine", b"yours"):
        world.redis.publish(CHANNEL, body)
    world.arrive()
    assert other.got == ["mine", "mine", "yours"]
    assert sender.got == v1.got == ["mine", "yours"]  # the other one is somebody else's


def test_a_lost_subscription_heals_nothing_and_goes_on(world: World) -> None:  # contract 7.3, 7.4
    member = world.joined(CHAT)
    world.down()
    world.redis.publish(CHANNEL, b"lost")
    world.up()
    world.redis.publish(CHANNEL, b"heard")
    world.arrive()
    for _ in range(100):
        world.perform([*world.hub.retry(), *world.hub.check()])
    assert member.got == ["heard"]


def test_what_is_no_message_changes_nothing(world: World) -> None:
    member = world.joined(CHAT)
    assert world.hub.message(CHANNEL, b"") == []  # whoever logs it logs a session's key
    with pytest.raises(WireError):
        hub_for(Ws4redisWire(), "rt", name="p1", control=lambda _: None).message(CONTROL, b"")
    world.hub.message(MARKS, b"\xff?")
    world.hub.message("nobody", b"x")
    assert member.got == []


def test_a_topic_that_has_no_name_is_refused_whole(world: World) -> None:  # contract 4.2
    member = Member()
    with pytest.raises(InvalidAudience):
        world.hub.subscribe(member, [Topic("a:b", Everyone()), Topic("a:b", User("ana"))])
    assert len(world.hub) == 0


def test_what_processes_say_to_each_other_is_on_our_own_wire() -> None:
    said: list[bytes] = []
    hub = hub_for(Ws4redisWire("site"), "rt", name="p1", control=said.append)
    assert isinstance(hub, LiveHub)
    (marks, control) = hub.connected()
    assert marks == Subscribe((MARKS,))
    assert control == Subscribe((CONTROL,))
    hub.confirmed(MARKS)
    (read,) = hub.confirmed(CONTROL)
    assert isinstance(read, Read)
    hub.healed(ReadResult(CONTROL, Position("e", 0)))
    hub.message(CONTROL, encode(Record(Kind.JSON, b'{"op":"x"}', Position("e", 1))))
    assert said == [b'{"op":"x"}']
    assert type(hub_for(RealtimeWire("rt"), "rt", name="p1")) is Hub
