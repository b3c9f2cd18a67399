"""What both buses promise, each test run with the sync and the async one (contract 3.4)."""

import asyncio
import functools
import gc
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from asgiref.sync import async_to_sync

from shim.bus.asyncio import AsyncBus
from shim.bus.commands import Commands, Outgoing
from shim.bus.embedded import EmbeddedValkey
from shim.bus.scripts import PUBLISH, READ
from shim.bus.sync import SyncBus
from shim.core.errors import RealtimeUnavailable
from shim.core.history import History, ReadRequest, Want
from shim.core.kept import STATE_SECONDS, Save
from shim.core.message import Kind
from shim.core.names import Topic, User
from shim.core.wire import Position, decode
from tests.bus.conftest import BusFace, Driver
from tests.bus.waiting import until

TOPIC = Topic("calls", User("ana"))
LONG = History(100, 300.0)
NONE = History(0)


def publish(bus: BusFace, body: bytes = b"x", history: History = LONG) -> Position | None:
    return bus.publish(TOPIC, Kind.TEXT, body, history)


def bodies(bus: BusFace, prefix: str, after: Position) -> list[bytes]:
    return [record.body for record in bus.read(ReadRequest(TOPIC.channel(prefix), Want.AFTER, after)).records]


def test_publish_and_read(bus: BusFace, prefix: str) -> None:
    first = publish(bus, b"1")
    assert first is not None
    assert publish(bus, b"plain", NONE) is None
    assert publish(bus, b"\x00" * 1_048_576) == (first.epoch, 2)
    assert publish(bus, b"") == (first.epoch, 3)
    assert bodies(bus, prefix, first) == [b"\x00" * 1_048_576, b""]
    bus.ping()


def test_many_in_one_round_trip_in_their_order(bus: BusFace, prefix: str, client: Any) -> None:  # contract 3.2
    start = bus.read(ReadRequest(TOPIC.channel(prefix), Want.POSITION)).position
    messages: list[Outgoing] = [(TOPIC, Kind.TEXT, b"%d" % i, LONG if i % 3 else NONE, None) for i in range(90)]
    for _ in range(2):
        client.script_flush()  # nobody has loaded the scripts: order must not depend on it
        positions = bus.publish_many(messages)
        assert [position is None for position in positions] == [i % 3 == 0 for i in range(90)]
    wanted = [b"%d" % i for i in range(90) if i % 3]
    assert bodies(bus, prefix, Position(start.epoch, 60)) == wanted
    assert bus.publish_many([]) == []


def test_many_bodies_larger_than_any_buffer(bus: BusFace, prefix: str) -> None:
    start = bus.read(ReadRequest(TOPIC.channel(prefix), Want.POSITION)).position
    large = [b"%d" % i * 1_000_000 for i in range(8)]
    bus.publish_many([(TOPIC, Kind.BINARY, body, LONG, None) for body in large])
    assert bodies(bus, prefix, start) == large


def test_scripts_that_redis_has_forgotten(bus: BusFace, prefix: str, client: Any) -> None:
    for _ in range(3):
        client.script_flush()
        assert publish(bus) is not None
        client.script_flush()
        results = bus.read_many([ReadRequest(TOPIC.channel(prefix), Want.LAST)] * 5)
        assert [len(result.records) for result in results] == [1] * 5


def test_many_reads_in_one_round_trip(bus: BusFace, prefix: str) -> None:
    topics = [Topic("calls", User(f"u{i}")) for i in range(300)]
    bus.publish_many([(topic, Kind.TEXT, str(i).encode(), LONG, None) for i, topic in enumerate(topics)])
    results = bus.read_many([ReadRequest(topic.channel(prefix), Want.LAST) for topic in topics])
    assert [result.records[0].body for result in results] == [b"%d" % i for i in range(300)]
    assert [result.channel for result in results] == [topic.channel(prefix) for topic in topics]


def test_control_reaches_the_control_channel(bus: BusFace, prefix: str, client: Any) -> None:
    listener = client.pubsub()
    listener.subscribe(f"{prefix}:{{control}}")
    assert listener.get_message(timeout=5)
    bus.control({"op": "disconnect", "user": "ana"})
    said = decode(listener.get_message(timeout=5)["data"])
    assert said.body == b'{"op":"disconnect","user":"ana"}'
    assert said.position is not None
    assert said.position.seq == 1
    listener.close()


def test_execute_is_one_plain_command(bus: BusFace, prefix: str) -> None:
    assert bus.execute("HSET", f"{prefix}:flag", "a", 1) == 1
    assert bus.execute("HGET", f"{prefix}:flag", "a") == b"1"
    assert bus.execute("HGET", f"{prefix}:flag", "b") is None


# Connections' states (contract 8.3)


def test_a_state_is_taken_once_with_the_past(bus: BusFace, prefix: str, client: Any) -> None:
    key, ask = f"{prefix}:state:a:o", [ReadRequest(TOPIC.channel(prefix), Want.POSITION)] * 3
    bus.save([Save(key, b'{"a":1}')])
    assert 290_000 < client.pttl(key) <= STATE_SECONDS * 1000
    for scripts_are_there in (True, False):
        bus.save([Save(key, b'{"a":1}')])
        if not scripts_are_there:
            client.script_flush()
        past, state = bus.join(ask, key)
        assert (state, len(past)) == (b'{"a":1}', 3)
        assert [result.position for result in past] == [past[0].position] * 3
        assert bus.join(ask, key)[1] is None
    assert bus.join([], None) == ([], None)
    assert bus.join([], key) == ([], None)


def test_states_are_saved_and_forgotten_in_order(bus: BusFace, prefix: str, client: Any) -> None:
    a, b = f"{prefix}:state:a:o", f"{prefix}:state:b:o"
    bus.save([Save(a, b"1"), Save(b, b"2", if_none=True), Save(a, b"3", if_none=True), Save(b, b"4")])
    assert (client.get(a), client.get(b)) == (b"1", b"4")
    bus.save([Save(a, None), Save(b, None), Save(b, b"5", if_none=True)])
    assert (client.get(a), client.get(b)) == (None, b"5")
    assert client.pttl(b) > 0
    bus.save([])


def test_a_state_that_cannot_be_taken_keeps_nobody_out(
    bus: BusFace, prefix: str, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    client.lpush(f"{prefix}:state:a:o", "of another kind")
    past, state = bus.join([ReadRequest(TOPIC.channel(prefix), Want.LAST)], f"{prefix}:state:a:o")
    assert (len(past), state) == (1, None)
    assert "A connection's state could not be taken" in caplog.text


# The same bytes


@pytest.fixture
def overheard(url: str) -> Iterator[Callable[[], list[str]]]:
    """What Redis is told, as MONITOR shows it."""
    commands: list[str] = []
    with redis.Redis.from_url(url) as client, client.monitor() as monitor:
        ended = threading.Event()

        def listen() -> None:
            for command in monitor.listen():
                if "the end" in command["command"]:
                    break
                verb = command["command"].split()[0]
                if command["client_type"] != "lua" and verb in {"EVAL", "EVALSHA", "PUBLISH"}:
                    commands.append(command["command"])
            ended.set()

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()

        def result() -> list[str]:
            client.echo("the end")
            assert ended.wait(10)
            return commands

        yield result
        thread.join(10)


def test_both_put_the_same_bytes_on_redis(url: str, prefix: str, overheard: Callable[[], list[str]]) -> None:
    """Contract 3.4."""
    with redis.Redis.from_url(url) as client:
        for script in (PUBLISH, READ):  # or the first of the two would have to send them
            client.script_load(script.text)
    for driver in (Driver("sync"), Driver("async")):
        bus = driver.bus(url, prefix=prefix)
        names = itertools.count()
        bus.bus._commands = Commands(prefix, epoch=functools.partial(_name, names))
        publish(bus)
        publish(bus, b"\x00\xff\r\n", NONE)
        bus.publish_many([(TOPIC, Kind.JSON, b"{}", LONG, "c1"), (TOPIC, Kind.JSON, b"{}", NONE, "c1")] * 3)
        bus.read_many([ReadRequest(TOPIC.channel(prefix), want, Position("a" * 16, 3)) for want in Want])
        bus.control({"op": "x"})
        driver.close()
    said = overheard()
    half = len(said) // 2
    assert len(said) >= 2 * 14
    assert said[half:] == said[:half]


def _name(names: Iterator[int]) -> str:
    return f"{next(names):016x}"


# Redis gone, hung, and back (contract 7.3)


def test_redis_gone_is_said_at_once_with_cause_and_remedy(driver: Driver, server: EmbeddedValkey) -> None:
    bus = driver.bus(server.url)
    publish(bus)
    server.stop()
    with pytest.raises(RealtimeUnavailable) as caught:
        publish(bus)
    said = str(caught.value)
    assert f"redis://127.0.0.1:{server.port}/0" in said
    assert "publish" in said
    assert "REALTIME_REDIS_URL" in said
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("size", [1, 8_000_000])
def test_a_hung_redis_costs_no_more_than_the_time_out(driver: Driver, server: EmbeddedValkey, size: int) -> None:
    bus = driver.bus(server.url, timeout=0.4)
    publish(bus)
    os.kill(server.pid, signal.SIGSTOP)
    for call in (
        lambda: publish(bus, b"x" * size),
        lambda: bus.publish_many([(TOPIC, Kind.TEXT, b"x" * size, LONG, None)] * 3),
        bus.ping,
    ):
        before = time.monotonic()
        with pytest.raises(RealtimeUnavailable, match=r"within 0\.4 s"):
            call()
        assert 0.35 < time.monotonic() - before < 1.0
    os.kill(server.pid, signal.SIGCONT)
    until(lambda: is_up(bus))


def is_up(bus: BusFace) -> bool:
    try:
        bus.ping()
    except RealtimeUnavailable:
        return False
    return True


def test_the_first_publish_after_a_restart_works(driver: Driver, server: EmbeddedValkey) -> None:
    bus = driver.bus(server.url)
    for _ in range(3):
        assert publish(bus) is not None
        server.stop()
        server.start()
        assert publish(bus) is not None


def test_the_first_publish_works_in_a_loop_that_was_busy_during_the_restart(server: EmbeddedValkey) -> None:
    async def scenario() -> None:
        bus = AsyncBus(server.url, prefix="rt")
        await bus.ping()
        server.stop()
        server.start()
        deadline = time.monotonic() + 0.1
        while time.monotonic() < deadline:
            pass  # the loop has no chance to see that the connection ended
        await bus.ping()
        await bus.close()

    asyncio.run(scenario())


def test_one_lost_connection_does_not_cost_one_failure_for_each(driver: Driver, server: EmbeddedValkey) -> None:
    """All pooled connections die with the first that is found dead, even if nobody said so on the network."""
    bus = driver.bus(server.url, timeout=0.3)
    together(bus, 8)
    os.kill(server.pid, signal.SIGSTOP)
    with pytest.raises(RealtimeUnavailable):
        bus.ping()
    os.kill(server.pid, signal.SIGCONT)
    assert connections(server) <= 2
    bus.ping()


def together(bus: BusFace, count: int) -> None:
    """Publish `count` times at once, so that as many connections are open."""
    if isinstance(bus.bus, SyncBus):
        barrier = threading.Barrier(count)

        def one() -> None:
            barrier.wait(10)
            publish(bus, b"x" * 100_000)

        threads = [threading.Thread(target=one) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    else:
        twin = bus.bus

        async def all_of_them() -> None:
            await asyncio.gather(*(twin.publish(TOPIC, Kind.TEXT, b"x" * 100_000, LONG) for _ in range(count)))

        bus.driver.wait_for(all_of_them())


def connections(server: EmbeddedValkey) -> int:
    with redis.Redis.from_url(server.url) as client:
        return len(client.client_list())


def test_connections_are_bounded(driver: Driver, server: EmbeddedValkey) -> None:
    bus = driver.bus(server.url, max_connections=2, timeout=5.0)
    together(bus, 12)
    assert connections(server) <= 3


def test_waiting_for_a_connection_is_bounded_and_named(driver: Driver, server: EmbeddedValkey) -> None:
    face = driver.bus(server.url, max_connections=1, timeout=0.3)
    bus = face.bus
    if isinstance(bus, SyncBus):
        pool = bus._pool()
        link = pool.take(time.monotonic() + 5)
        give_back = functools.partial(pool.give_back, link)
    else:
        give_back = driver.wait_for(_hold(bus))
    before = time.monotonic()
    with pytest.raises(RealtimeUnavailable, match=r"all 1 connections of this .* were busy"):
        face.ping()
    assert 0.25 < time.monotonic() - before < 1.0
    driver.run(give_back)
    face.ping()


async def _hold(bus: AsyncBus) -> "functools.partial[None]":
    pool = await bus._pool()
    return functools.partial(pool.give_back, await pool.take())


def test_everybody_who_waits_for_a_hung_redis_is_told_in_time(driver: Driver, server: EmbeddedValkey) -> None:
    bus = driver.bus(server.url, max_connections=1, timeout=0.3)
    os.kill(server.pid, signal.SIGSTOP)
    errors: list[str] = []

    def one() -> None:
        try:
            bus.ping()
        except RealtimeUnavailable as error:
            errors.append(str(error))

    threads = [threading.Thread(target=one) for _ in range(5)]
    before = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert time.monotonic() - before < 1.5
    assert len(errors) == 5


def test_what_redis_refuses_is_named(driver: Driver, server: EmbeddedValkey) -> None:
    bus = driver.bus(server.url)
    with redis.Redis.from_url(server.url) as client:
        publish(bus)
        client.set(TOPIC.channel("rt") + ":log", "mine")
        with pytest.raises(RealtimeUnavailable, match="REALTIME_PREFIX"):
            publish(bus)
        client.flushall()
        assert publish(bus) is not None
        client.config_set("maxmemory", "1")
        with pytest.raises(RealtimeUnavailable, match="out of memory"):
            publish(bus)
        with pytest.raises(RealtimeUnavailable, match="out of memory"):
            bus.publish_many([(TOPIC, Kind.TEXT, b"x", LONG, None)] * 3)
        assert publish(bus, b"x", NONE) is None, "at most once needs no memory"
        assert bus.read(ReadRequest(TOPIC.channel("rt"), Want.LAST)).position.seq == 1
        client.config_set("maxmemory", "0")
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(RealtimeUnavailable, match="replica"):
            publish(bus)
        client.execute_command("REPLICAOF", "NO", "ONE")
        assert publish(bus).seq == 2  # type: ignore[union-attr] # with history there is a position


@pytest.mark.parametrize("given", ["wrong", ""])
def test_a_wrong_password_is_said_and_not_shown(driver: Driver, given: str) -> None:
    with EmbeddedValkey(config={"requirepass": "s3cret"}) as valkey:
        driver.bus(valkey.url).ping()
        bus = driver.bus(f"redis://{f':{given}@' if given else ''}127.0.0.1:{valkey.port}/0")
        with pytest.raises(RealtimeUnavailable, match="password in REALTIME_REDIS_URL") as caught:
            bus.ping()
        assert "wrong" not in str(caught.value)


def test_a_password_that_nobody_wants(driver: Driver, server: EmbeddedValkey) -> None:
    bus = driver.bus(f"redis://:needless@127.0.0.1:{server.port}/0")
    with pytest.raises(RealtimeUnavailable, match="password in REALTIME_REDIS_URL"):
        bus.ping()


def test_another_database_and_a_name(driver: Driver, server: EmbeddedValkey) -> None:
    bus = driver.bus(f"redis://127.0.0.1:{server.port}/3?client_name=somebody")
    assert publish(bus) is not None
    with redis.Redis.from_url(server.url) as client:
        assert client.dbsize() == 0
        assert "somebody" in {each["name"] for each in client.client_list()}


def test_too_many_clients(driver: Driver) -> None:
    with EmbeddedValkey(config={"maxclients": "1"}) as valkey, redis.Redis.from_url(valkey.url) as client:
        client.ping()
        with pytest.raises(RealtimeUnavailable, match=r"max number of clients|cannot be reached"):
            driver.bus(valkey.url).ping()


def test_a_name_that_does_not_exist(driver: Driver) -> None:
    with pytest.raises(RealtimeUnavailable, match=r"nowhere\.invalid"):
        driver.bus("redis://nowhere.invalid:6379/0", timeout=10.0).ping()


def test_closing_is_not_the_end(bus: BusFace) -> None:
    publish(bus)
    bus.close()
    bus.close()
    assert publish(bus) is not None


def test_an_interrupted_call_does_not_leave_its_answer_to_the_next(url: str, prefix: str) -> None:
    """A cancelled publish, a KeyboardInterrupt: its connection must not be used again."""

    async def scenario() -> None:
        bus = AsyncBus(url, prefix=prefix)
        await bus.ping()
        for delay in range(30):
            task = asyncio.create_task(bus.execute("ECHO", f"lost {delay}"))
            for _ in range(delay):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert await bus.execute("ECHO", f"mine {delay}") == f"mine {delay}".encode()
        await bus.close()

    asyncio.run(scenario())


# Processes, threads and loops


def test_a_forked_child_does_not_share_a_connection(url: str, prefix: str) -> None:
    bus = SyncBus(url, prefix=prefix)
    assert bus.execute("ECHO", "parent") == b"parent"
    child = os.fork()
    if not child:  # nothing here may raise: this is a copy of the test run
        good = False
        try:
            good = all(bus.execute("ECHO", f"c{i}") == f"c{i}".encode() for i in range(200))
        finally:
            os._exit(0 if good else 1)
    for i in range(200):
        assert bus.execute("ECHO", f"p{i}") == f"p{i}".encode()
    assert os.waitpid(child, 0)[1] == 0
    assert bus.execute("ECHO", "still") == b"still"
    bus.close()


def test_loops_that_live_for_one_call_leave_nothing_behind(server: EmbeddedValkey) -> None:
    bus = AsyncBus(server.url, prefix="rt")
    before = connections(server)
    for _ in range(10):
        assert async_to_sync(bus.publish)(TOPIC, Kind.TEXT, b"x", LONG) is not None
        assert asyncio.run(bus.publish(TOPIC, Kind.TEXT, b"x", LONG)) is not None
    gc.collect()  # a ResourceWarning would be an error
    assert bus._pools == {}
    until(lambda: connections(server) == before)


def test_loops_in_threads_have_their_own_connections(bus: BusFace, url: str, prefix: str) -> None:
    twin = AsyncBus(url, prefix=prefix)
    results: list[Position | None] = []

    async def some() -> None:
        results.extend([await twin.publish(TOPIC, Kind.TEXT, b"x", LONG) for _ in range(20)])
        await asyncio.gather(*(twin.ping() for _ in range(20)))

    threads = [threading.Thread(target=lambda: asyncio.run(some())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(position.seq for position in results if position) == list(range(1, 81))


def test_connections_of_a_burst_are_closed_again(
    driver: Driver, server: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shim.bus.link_sync.IDLE_CONNECTION", 0.01)
    monkeypatch.setattr("shim.bus.link_asyncio.IDLE_CONNECTION", 0.01)
    bus = driver.bus(server.url)
    together(bus, 8)

    def one_left() -> bool:
        bus.ping()
        return connections(server) == 2  # the bus's and ours

    until(one_left)
