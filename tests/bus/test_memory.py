"""The Redis in memory is a verified fake: what a real one answers, it answers; what it leaves out, it refuses.

Two agreements, each a random sequence of commands given to both. The first goes through the whole sync bus, with the
scripts as they are, and lets no time pass. The second runs the same scripts on the real server under a clock of the
test's own, so that everything that expires does so at the same millisecond on both.
"""

import asyncio
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shim.bus import flag
from shim.bus.commands import Command, Commands, Exchange, Outgoing
from shim.bus.memory import AsyncMemoryBus, MemoryBus
from shim.bus.memory_redis import MAX_UNREAD, NOTHING, MemoryRedis, install, memory_redis
from shim.bus.scripts import PUBLISH, READ
from shim.bus.sync import SyncBus
from shim.core.cohorts import Snapshot
from shim.core.errors import RealtimeUnavailable
from shim.core.history import History, ReadRequest, ReadResult, Want
from shim.core.kept import STATE_SECONDS, Save
from shim.core.message import Kind
from shim.core.names import Group, Session, Topic, User
from shim.core.wire import MAX_SEQ, Position, decode
from tests.bus.conftest import Driver
from tests.bus.waiting import until

TOPICS = (Topic("calls", User("ana")), Topic("a:{b}", Group("x\ny *")))
TTLS = (0.1, 1.0, 20.0)
META_TTL = 5.0

type Reply = Any


# What both are told


@dataclass(frozen=True)
class Publish:
    messages: tuple[Outgoing, ...]


@dataclass(frozen=True)
class Ask:
    """A question; `seen` is which of the topic's positions it is asked after, from the newest back, plus `shift`."""

    topic: Topic
    want: Want
    seen: int | None
    shift: int

    def after(self, met: Mapping[Topic, list[Position]]) -> Position | None:
        known = met[self.topic][::-1]
        if self.seen is None or not known:
            return None
        epoch, seq = known[self.seen % len(known)]
        return Position(epoch, seq + self.shift)


@dataclass(frozen=True)
class Lose:
    """What a Redis can lose: a key that is evicted, or all of them."""

    key: str
    topic: Topic


@dataclass(frozen=True)
class Elapse:
    ms: int


topics = st.sampled_from([TOPICS[0]] * 4 + [TOPICS[1]])
messages = st.tuples(
    topics,
    st.sampled_from(Kind),
    st.binary(max_size=20),
    st.builds(History, st.sampled_from([100, 100, 5, 2, 1, 0]), st.sampled_from(TTLS)),
    st.sampled_from([None, "c-1"]),
)
publishes = st.builds(Publish, st.lists(messages, min_size=1, max_size=4).map(tuple))
seen = st.sampled_from([*range(6), None])
questions = st.builds(Ask, topics, st.sampled_from(Want), seen, st.sampled_from([0, 0, 0, 0, -1, 1, 40, MAX_SEQ]))
losses = st.builds(Lose, st.sampled_from(["meta", "log", "all"]), topics)
# Whatever lives for a time ends at that moment or a quarter later: look just before it, at it, and just after.
moments = st.builds(
    lambda seconds, quarters, off: Elapse(round(seconds * 250) * quarters + off),
    st.sampled_from([*TTLS, META_TTL]),
    st.sampled_from([4, 5, 1]),
    st.sampled_from([0, 1, -1]),
)


class Real:
    """A real server, with the scripts as they are."""

    def __init__(self, url: str) -> None:
        self.client: Any = redis.Redis.from_url(url)

    def run(self, command: Command) -> Reply:
        return self.client.execute_command(*command)

    def close(self) -> None:
        self.client.close()


_CLOCK = """\
local server, ends = redis, 'test-clock:ends'
local now = tonumber(server.call('GET', 'test-clock:now'))
local redis = {call = function(name, key, ...)
  if name == 'TIME' then
    return {string.format('%.0f', math.floor(now / 1000)), string.format('%.0f', now % 1000 * 1000)}
  elseif name == 'PTTL' then
    if server.call('EXISTS', key) == 0 then return -2 end
    local when = server.call('HGET', ends, key)
    return when and tonumber(when) - now or -1
  elseif name == 'PEXPIRE' then
    return server.call('HSET', ends, key, string.format('%.0f', now + ...))
  elseif name == 'DEL' then
    server.call('HDEL', ends, key)
  end
  return server.call(name, key, ...)
end}
for _, key in ipairs(KEYS) do
  local when = tonumber(server.call('HGET', ends, key) or nil)
  if when and when < now then redis.call('DEL', key) end
end
"""
"""In front of a script: time is what the test says, and keys end by it as they do in Redis, when it is over."""


class Clocked(Real):
    """A real server that runs the real scripts under a clock of ours."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.scripts: dict[str, str] = {}
        for script in (PUBLISH, READ):
            clocked = self.client.script_load(_CLOCK + script.text)
            self.scripts |= {script.sha: clocked, script.text: clocked}
        self.now = 0
        self.elapse(1_000_000)

    def elapse(self, ms: int) -> None:
        self.now += ms
        self.client.set("test-clock:now", self.now)

    def run(self, command: Command) -> Reply:
        match command:
            case ("EVALSHA" | "EVAL", str(script), *rest):
                return super().run(("EVALSHA", self.scripts[script], *rest))
            case ("DEL", *keys):
                self.client.hdel("test-clock:ends", *keys)
        return super().run(command)


class Fake:
    def __init__(self) -> None:
        self.now = 1_000_000
        self.redis = MemoryRedis(lambda: self.now / 1000)

    def elapse(self, ms: int) -> None:
        self.now += ms

    def run(self, command: Command) -> Reply:
        return self.redis.call(command)


@dataclass
class Side:
    """One of the two, its epochs numbered in the order in which they were met: they are drawn at random."""

    server: Any
    prefix: str
    epochs: dict[str, str] = field(default_factory=dict)

    def carry[T](self, exchange: Exchange[T]) -> T:
        try:
            commands = next(exchange)
            while True:
                commands = exchange.send([self.server.run(command) for command in commands])
        except StopIteration as done:
            result: T = done.value
            return result

    def publish(self, messages: Sequence[Outgoing]) -> list[Position | None]:
        return [self.known(at) for at in self.carry(Commands(self.prefix, META_TTL).publish_many(messages))]

    def read(self, topic: Topic, want: Want, after: Position | None) -> ReadResult:
        request = ReadRequest(topic.channel(self.prefix), want, self.own(after))
        (result,) = self.carry(Commands(self.prefix, META_TTL).read_many([request]))
        return replace(
            result,
            position=self.known(result.position),
            records=tuple(record._replace(position=self.known(record.position)) for record in result.records),
        )

    def lose(self, what: Lose) -> None:
        for topic in TOPICS if what.key == "all" else [what.topic]:
            keys = ("meta", "log") if what.key == "all" else (what.key,)
            self.server.run(("DEL", *(f"{topic.channel(self.prefix)}:{key}" for key in keys)))

    def known(self, position: Position | None) -> Any:
        if position is None:
            return None
        return Position(self.epochs.setdefault(position.epoch, f"epoch {len(self.epochs)}"), position.seq)

    def own(self, position: Position | None) -> Position | None:
        if position is None:
            return None
        named = {known: own for own, known in self.epochs.items()}
        return Position(named[position.epoch], position.seq)


def agree(real: Side, fake: Side, program: Sequence[Publish | Ask | Lose | Elapse]) -> None:
    met: dict[Topic, list[Position]] = {topic: [] for topic in TOPICS}
    for told in program:
        match told:
            case Publish(messages):
                positions = fake.publish(messages)
                assert positions == real.publish(messages), told
                for message, position in zip(messages, positions, strict=True):
                    met[message[0]] += [position] if position else []
            case Ask(topic, want):
                after = told.after(met)
                result = fake.read(topic, want, after)
                assert result == real.read(topic, want, after), told
                met[topic].append(result.position)
            case Lose():
                fake.lose(told)
                real.lose(told)
            case Elapse(ms):
                fake.server.elapse(ms)
                real.server.elapse(ms)


@pytest.fixture(scope="module")
def clocked(embedded: Any) -> Iterator[Clocked]:
    made = Clocked(embedded.url)
    yield made
    made.close()


def one(ttl: float) -> Publish:
    return Publish(((TOPICS[0], Kind.TEXT, b"", History(100, ttl), None),))


@settings(max_examples=300)
@example([one(1.0), Elapse(1_000), Ask(TOPICS[0], Want.LAST, None, 0)])
@example([one(0.1), one(1.0), Elapse(100), Ask(TOPICS[0], Want.AFTER, 1, -1)])
@example([one(0.1), one(1.0), Elapse(100), Ask(TOPICS[0], Want.HEAL, 1, -1)])
@example([one(1.0), Elapse(1_250), one(1.0), Elapse(5_001), Ask(TOPICS[0], Want.POSITION, None, 0)])
@example([one(1.0), Elapse(1_250), *[Ask(TOPICS[0], Want.POSITION, None, 0), Elapse(5_001)] * 2])
@given(program=st.lists(publishes | questions | questions | moments | moments | losses, min_size=10, max_size=40))
def test_it_answers_as_a_real_one_does_whatever_the_time(clocked: Clocked, program: list[Any]) -> None:
    prefix = f"t{uuid.uuid4().hex[:12]}"
    agree(Side(clocked, prefix), Side(Fake(), prefix), program)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(program=st.lists(publishes | questions))
def test_both_buses_answer_alike(url: str, program: list[Any]) -> None:
    """The real buses, the real scripts: only what lives for long, because here the real time passes."""
    prefix = f"t{uuid.uuid4().hex[:12]}"
    install("memory://agreement", MemoryRedis())
    real, fake = SyncBus(url, prefix=prefix), MemoryBus("memory://agreement", prefix=prefix)
    sides = Side(None, prefix), Side(None, prefix)
    met: dict[Topic, list[Position]] = {topic: [] for topic in TOPICS}
    try:
        for told in program:
            if isinstance(told, Publish):
                lasting = [(*m[:3], History(m[3].size, 300.0), m[4]) for m in told.messages]
                found = [
                    [side.known(at) for at in bus.publish_many(lasting)]
                    for side, bus in zip(sides, (real, fake), strict=True)
                ]
                assert found[0] == found[1]
                for message, position in zip(lasting, found[0], strict=True):
                    met[message[0]] += [position] if position else []
            else:
                after = told.after(met)
                channel = told.topic.channel(prefix)
                answers = []
                for side, bus in zip(sides, (real, fake), strict=True):
                    (result,) = bus.read_many([ReadRequest(channel, told.want, side.own(after))])
                    answers.append((side.known(result.position), [record.body for record in result.records]))
                assert answers[0] == answers[1]
                met[told.topic].append(answers[0][0])
    finally:
        real.close()
        fake.close()
        install("memory://agreement", None)


def test_the_flag_is_numbered_and_kept_alike(url: str, prefix: str) -> None:  # contract 8.2
    real, fake = Real(url), Fake()
    for server in (real, fake):
        reply = server.run(flag.stored_command(prefix))
        assert flag.stored_from(reply) is None
    for epoch in ("a", "b"):
        versions = [flag.number_from(server.run(flag.number_command(prefix, epoch))) for server in (real, fake)]
        assert versions[0] == versions[1]
    for version in (("a", 2), ("a", 1), ("b", 9), ("a", 3)):
        command = flag.publish_command(prefix, "c", Snapshot("f", exists=True, version=version))
        assert real.run(command) == fake.run(command)
        assert real.run(flag.stored_command(prefix)) == fake.run(flag.stored_command(prefix))
    real.close()


saves = st.builds(Save, st.sampled_from("ab"), st.sampled_from([b"1", b"2", None]), st.booleans())
values = st.tuples(st.just("save"), st.lists(saves, max_size=4)) | st.tuples(st.just("take"), st.sampled_from("ab"))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(program=st.lists(values, max_size=12))
def test_states_are_saved_and_taken_alike(url: str, program: list[tuple[str, Any]]) -> None:  # contract 8.3
    prefix = f"t{uuid.uuid4().hex[:12]}:"
    real, fake = Side(Real(url), prefix), Side(Fake(), prefix)
    commands = Commands("rt")
    for what, told in program:
        if what == "save":
            for side in (real, fake):
                side.carry(commands.save([replace(save, key=prefix + save.key) for save in told]))
        else:
            taken = [side.carry(commands.join([], prefix + told)) for side in (real, fake)]
            assert taken[0] == taken[1]
    real.server.close()


def test_a_state_ends_when_its_time_is_over() -> None:
    fake = Side(Fake(), "rt")
    for beyond, found in ((0, b"1"), (1, None)):
        fake.carry(Commands("rt").save([Save("a", b"1"), Save("b", b"1")]))
        fake.server.elapse(round(STATE_SECONDS * 1000) + beyond)
        fake.carry(Commands("rt").save([Save("b", b"2", if_none=True)]))
        assert fake.carry(Commands("rt").join([], "a")) == ([], found)
        assert fake.carry(Commands("rt").join([], "b")) == ([], found or b"2")


# As Redis, for whoever connects


@pytest.fixture
def memory() -> Iterator[MemoryRedis]:
    made = MemoryRedis()
    install("memory://test", made)
    yield made
    install("memory://test", None)


def test_a_subscription_hears_what_a_bus_publishes(memory: MemoryRedis, driver: Driver) -> None:
    channel = TOPICS[0].channel("rt")
    subscription = driver.subscription("memory://test", [channel, "rt:{control}"])
    subscription.start_and_wait()
    bus = driver.bus("memory://test")
    assert bus.publish(TOPICS[0], Kind.TEXT, b"1", History()) == memory_position(memory, 1)
    bus.publish(TOPICS[0], Kind.TEXT, b"2", History(size=0))
    bus.control({"op": "x"})
    until(lambda: len(subscription.heard.messages) == 3)
    first, second, third = subscription.heard.messages
    assert decode(first).body == b"1"
    assert decode(second).position is None
    assert decode(third).body == b'{"op":"x"}'
    subscription.unsubscribe([channel])
    bus.publish(TOPICS[0], Kind.TEXT, b"3", History())
    bus.control({"op": "y"})
    until(lambda: len(subscription.heard.messages) == 4)
    assert decode(subscription.heard.messages[-1]).body == b'{"op":"y"}'


def memory_position(memory: MemoryRedis, seq: int) -> Position:
    (result,) = MemoryBus("memory://test", prefix="rt").read_many([ReadRequest(TOPICS[0].channel("rt"), Want.POSITION)])
    return Position(result.position.epoch, seq)


def test_when_it_is_away_calls_fail_and_subscriptions_come_back(memory: MemoryRedis, driver: Driver) -> None:
    subscription = driver.subscription("memory://test", ["rt:{control}"])
    subscription.start_and_wait()
    bus = driver.bus("memory://test")
    bus.ping()
    memory.stop()
    with pytest.raises(RealtimeUnavailable, match="memory://test cannot be reached"):  # contract 7.3
        bus.publish(TOPICS[0], Kind.TEXT, b"1", History())
    until(lambda: bool(subscription.heard.downs))
    memory.start()
    until(lambda: subscription.heard.confirmed("rt:{control}") == 2)
    assert len(subscription.heard.downs) == 1
    bus.control({"op": "x"})
    until(lambda: [decode(said).body for said in subscription.heard.messages] == [b'{"op":"x"}'])


def test_a_silent_subscription_asks_for_a_sign_of_life(memory: MemoryRedis, driver: Driver) -> None:
    subscription = driver.subscription("memory://test", ["rt:{control}"], idle=0.01, timeout=0.05)
    subscription.start_and_wait()
    done = threading.Event()
    threading.Timer(0.4, done.set).start()
    until(done.is_set)
    assert subscription.heard.ups == 1
    assert subscription.connected


def test_who_does_not_read_is_cut_off(memory: MemoryRedis) -> None:
    line = memory.line()
    line.say([("SUBSCRIBE", "c")])
    for _ in range(MAX_UNREAD // 1_000_000 + 1):
        memory.call(("PUBLISH", "c", bytes(1_000_000)))
    with pytest.raises(redis.exceptions.ConnectionError, match="not read"):
        line.hear()
    assert memory.call(("PUBLISH", "c", b"")) == 0


def test_names_are_servers_of_their_own() -> None:
    assert memory_redis("memory://one") is memory_redis("memory://one")
    assert memory_redis("memory://one") is not memory_redis("memory://two")
    install("memory://one", None)
    install("memory://two", None)


def test_what_it_does_not_know_it_refuses(memory: MemoryRedis, driver: Driver) -> None:
    with pytest.raises(RealtimeUnavailable, match="does not know the command"):
        driver.bus("memory://test").execute("XADD", "k", "*", "a", "b")
    assert isinstance(memory.call(("EVALSHA", "0" * 40, 0)), redis.exceptions.NoScriptError)
    with pytest.raises(ValueError, match="REALTIME_REDIS_URL"):
        MemoryBus("memory://a/b", prefix="rt")


def test_topics_that_nobody_uses_any_more_are_forgotten() -> None:
    fake = Fake()
    install("memory://test", fake.redis)
    bus = MemoryBus("memory://test", prefix="rt", meta_ttl=10.0)
    for i in range(5_000):
        fake.elapse(50)
        bus.publish(Topic("calls", Session(f"s-{i}")), Kind.TEXT, b"", History(1, 10.0))
    assert len(fake.redis._metas) < 2_000
    assert len(fake.redis._logs) < 2_000
    install("memory://test", None)


def test_the_journal_notes_what_was_taken(memory: MemoryRedis) -> None:
    noted: list[tuple[Outgoing, Position | None]] = []
    memory.journal = lambda outgoing, position: noted.append((outgoing, position))
    one: Outgoing = (TOPICS[0], Kind.TEXT, b"1", History(), None)
    two: Outgoing = (TOPICS[1], Kind.BINARY, b"2", History(size=0), "c-1")
    bus = MemoryBus("memory://test", prefix="rt")
    first = bus.publish(*one)
    assert bus.publish_many([two]) == [None]

    async def publish() -> list[Position | None]:
        bus = AsyncMemoryBus("memory://test", prefix="rt")
        return [await bus.publish(*one), *await bus.publish_many([two])]

    third, fourth = asyncio.run(publish())
    assert noted == [(one, first), (two, None), (one, third), (two, fourth)]
    memory.stop()
    with pytest.raises(RealtimeUnavailable):
        bus.publish(*one)
    assert len(noted) == 4


def test_what_was_heard_before_is_gone_with_the_line(memory: MemoryRedis) -> None:
    line = memory.line()
    line.say([("SUBSCRIBE", "c")])
    assert line.hear() == [b"subscribe", b"c", 1]
    assert line.hear() is NOTHING
    memory.call(("PUBLISH", "c", b"1"))
    memory.stop()
    with pytest.raises(redis.exceptions.ConnectionError):
        line.hear()
    with pytest.raises(redis.exceptions.ConnectionError):
        line.say([("PING",)])
    with pytest.raises(redis.exceptions.ConnectionError):
        memory.line()
