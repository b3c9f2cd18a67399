"""ws4redis's wire, on a real server and in memory, by both drivers."""

import uuid
from collections.abc import Iterator

import pytest
import redis as redis_py
from redis.exceptions import OutOfMemoryError

from shim.bus.commands import Exchange
from shim.bus.embedded import EmbeddedValkey
from shim.bus.memory_redis import MemoryRedis, install
from shim.bus.ws4redis import Ws4redisCommands
from shim.core.errors import InvalidAudience, InvalidPayload, RealtimeUnavailable
from shim.core.history import History, ReadRequest, Want
from shim.core.kept import Save
from shim.core.message import Kind
from shim.core.names import Everyone, Topic, User, control_channel
from shim.core.wire import Position, decode
from shim.core.wires import Ws4redisWire
from tests.bus.conftest import BusFace, Driver
from tests.bus.waiting import until

KEPT = History(1, 300.0)
NOT_KEPT = History(0)


@pytest.fixture(params=["real", "memory"])
def url(request: pytest.FixtureRequest, embedded: EmbeddedValkey) -> Iterator[str]:
    if request.param == "real":
        yield embedded.url
    else:
        name = f"memory://{uuid.uuid4().hex}"
        install(name, MemoryRedis())
        yield name
        install(name, None)


@pytest.fixture
def wire(prefix: str) -> Ws4redisWire:
    return Ws4redisWire(prefix)


@pytest.fixture
def bus(driver: Driver, url: str, prefix: str, wire: Ws4redisWire) -> BusFace:
    return driver.bus(url, prefix=f"{prefix}-rt", wire=wire)


def last(bus: BusFace, channel: str) -> list[tuple[Kind, bytes]]:
    result = bus.read(ReadRequest(channel, Want.LAST))
    assert result.channel == channel
    return [(record.kind, record.body) for record in result.records]


def test_a_message_is_published_bare_and_kept_under_the_channels_name(
    driver: Driver, bus: BusFace, wire: Ws4redisWire, url: str
) -> None:
    topic = Topic("chat", Everyone())
    channel = wire.channel(topic)
    subscription = driver.subscription(url, [channel])
    subscription.start_and_wait()
    assert last(bus, channel) == []
    assert bus.publish(topic, Kind.JSON, b'{"a":1}', KEPT) is None
    assert bus.publish(topic, Kind.TEXT, b"not kept", NOT_KEPT) is None
    assert bus.publish_many([(topic, Kind.BINARY, b"\xff", KEPT, None), (topic, Kind.TEXT, b"4", NOT_KEPT, None)]) == [
        None,
        None,
    ]
    until(lambda: len(subscription.heard.messages) == 4)
    assert subscription.heard.messages == [b'{"a":1}', b"not kept", b"\xff", b"4"]
    assert bus.execute("GET", channel) == b"\xff"
    assert last(bus, channel) == [(Kind.BINARY, b"\xff")]


def test_it_expires_and_an_unkept_message_leaves_it_alone(
    prefix: str, driver: Driver, embedded: EmbeddedValkey
) -> None:
    bus, topic = driver.bus(embedded.url, prefix="rt", wire=Ws4redisWire(prefix)), Topic("chat", User("ana"))
    with redis_py.Redis.from_url(embedded.url) as client:
        bus.publish(topic, Kind.TEXT, b"1", History(100, 7.0))
        bus.publish(topic, Kind.TEXT, b"2", NOT_KEPT)
        assert client.get(f"{prefix}:user:ana:chat") == b"1"
        assert 6_000 < client.pttl(f"{prefix}:user:ana:chat") <= 7_000


def test_a_connections_state_is_taken_here_too(bus: BusFace, wire: Ws4redisWire) -> None:  # contract 8.3
    topic = Topic("chat", Everyone())
    bus.publish(topic, Kind.TEXT, b"last", KEPT)
    for requests in ([ReadRequest(wire.channel(topic), Want.LAST)], []):
        bus.save([Save("a-state", b'{"a":1}')])
        past, state = bus.join(requests, "a-state")
        assert state == b'{"a":1}'
        assert [[record.body for record in result.records] for result in past] == [[b"last"]] * len(requests)
        assert bus.join(requests, "a-state")[1] is None


def test_questions_are_answered_in_the_order_asked(bus: BusFace, wire: Ws4redisWire) -> None:
    topics = [Topic("chat", User(name)) for name in ("a", "b", "c")]
    for topic in topics[::2]:
        bus.publish(topic, Kind.TEXT, topic.tag.encode(), KEPT)
    results = bus.read_many([ReadRequest(wire.channel(topic), Want.LAST) for topic in topics])
    assert [len(result.records) for result in results] == [1, 0, 1]
    assert results[2].records[0].body == topics[2].tag.encode()
    assert bus.read_many([]) == []


def test_a_mark_is_heard_between_what_came_before_the_read_and_what_came_after(
    driver: Driver, bus: BusFace, wire: Ws4redisWire, url: str, prefix: str
) -> None:
    topic, mark = Topic("chat", User("ana")), f"{prefix}:mark:p1"
    subscription = driver.subscription(url, [wire.channel(topic), mark])
    subscription.start_and_wait()
    bus.publish(topic, Kind.TEXT, b"before", KEPT)
    requests = [ReadRequest(wire.channel(topic), Want.LAST), ReadRequest(mark, Want.MARK, mark="7")]
    kept, marked = bus.read_many(requests)
    bus.publish(topic, Kind.TEXT, b"after", KEPT)
    until(lambda: len(subscription.heard.messages) == 3)
    assert subscription.heard.messages == [b"before", b"7", b"after"]
    assert [record.body for record in kept.records] == [b"before"]
    assert marked.records == ()


def test_what_processes_say_to_each_other_stays_on_our_own_wire(
    bus: BusFace, url: str, driver: Driver, prefix: str
) -> None:
    """Questions about positions are about that, and answered as ever."""
    channel = f"{prefix}-rt:{{x}}"
    (asked, kept) = bus.read_many([ReadRequest(channel, Want.POSITION), ReadRequest("nothing", Want.LAST)])
    assert asked.position.seq == 0
    assert asked.position.epoch
    assert kept.position == Position("", 0)


def test_what_ws4redis_would_not_deliver_is_not_read(bus: BusFace, driver: Driver, url: str, prefix: str) -> None:
    bus.execute("SET", f"{prefix}:broadcast:chat", b"--heartbeat--", "PX", 60_000)
    with_heartbeat = driver.bus(url, prefix="rt", wire=Ws4redisWire(prefix, "--heartbeat--"))
    assert last(with_heartbeat, f"{prefix}:broadcast:chat") == []
    assert last(bus, f"{prefix}:broadcast:chat") == [(Kind.TEXT, b"--heartbeat--")]


class TestSent:
    """contract 6.5: a bare payload does not say whose it is, so the process remembers."""

    TOPIC = Topic("chat", Everyone())

    def test_who_sent_is_known_when_it_comes_back(self, bus: BusFace, wire: Ws4redisWire) -> None:
        bus.publish(self.TOPIC, Kind.TEXT, b"x", KEPT, "c1")
        bus.publish_many([(self.TOPIC, Kind.TEXT, b"y", NOT_KEPT, "c2")])
        channel = wire.channel(self.TOPIC)
        assert [wire.decode(channel, body).origin for body in (b"x", b"y", b"x")] == ["c1", "c2", None]

    def test_what_was_refused_is_not_expected(self, bus: BusFace, wire: Ws4redisWire) -> None:
        with pytest.raises(InvalidPayload):
            bus.publish_many([(self.TOPIC, Kind.TEXT, b"x", KEPT, "c1"), (self.TOPIC, Kind.TEXT, b"", KEPT, "c1")])
        with pytest.raises(InvalidAudience):
            bus.publish(Topic("a:b", User("ana")), Kind.TEXT, b"x", KEPT, "c1")
        assert len(wire.sent) == 0

    def test_nor_what_could_not_be_sent(self, driver: Driver, wire: Ws4redisWire) -> None:
        bus = driver.bus("redis://127.0.0.1:9/0", prefix="rt", wire=wire, timeout=0.5)
        with pytest.raises(RealtimeUnavailable):  # contract 7.3
            bus.publish(self.TOPIC, Kind.TEXT, b"x", KEPT, "c1")
        assert len(wire.sent) == 0


def carried[T](exchange: Exchange[T], *replies: object) -> T:
    next(exchange)
    try:
        exchange.send(replies)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("it wants more")


def test_a_transaction_that_redis_refused_is_an_error_wherever_it_says_so() -> None:
    commands = Ws4redisCommands("rt")
    message = (Topic("chat", Everyone()), Kind.TEXT, b"x", KEPT, None)
    full = OutOfMemoryError("OOM")
    for replies in (
        (b"OK", full, b"QUEUED", redis_py.ResponseError("EXECABORT")),
        (b"OK", b"QUEUED", b"QUEUED", [full, 1]),
    ):
        with pytest.raises(OutOfMemoryError):
            carried(commands.publish(message), *replies)
    question = [ReadRequest("c", Want.LAST)]
    for answer in (redis_py.ResponseError("EXECABORT"), None, [1, 2], [full]):
        with pytest.raises(redis_py.RedisError):
            carried(commands.read_many(question), b"OK", b"QUEUED", answer)


def test_control_messages_are_what_they_are_elsewhere(driver: Driver, url: str, prefix: str) -> None:
    subscription = driver.subscription(url, [control_channel(prefix)])
    subscription.start_and_wait()
    driver.bus(url, prefix=prefix, wire=Ws4redisWire(prefix)).control({"op": "x"})
    driver.bus(url, prefix=prefix).control({"op": "x"})
    until(lambda: len(subscription.heard.messages) == 2)
    one, other = map(decode, subscription.heard.messages)
    assert one.body == other.body
    assert one.position is not None
