"""Contract 7.4: what Redis does to those who subscribe, and what comes after it. Servers of this module's own."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from redis import Redis

from demo.faults import REDIS_THAT_KEEPS
from shim import Group, realtime
from shim.bus.embedded import EmbeddedValkey
from shim.core.names import Topic
from tests.integration.contract.cluster import MAIN, Cluster, Place, wait_until
from tests.integration.contract.listening import Listener, listeners
from tests.integration.contract.wire import V1

pytestmark = pytest.mark.servers

SAVING = 10.0  # seconds that Valkey may take to end when it is told to


@pytest.fixture(scope="module")
def redis_config() -> dict[str, str]:
    """It keeps what it acknowledges."""
    return REDIS_THAT_KEEPS


@pytest.fixture
def both(strained: Cluster) -> list[Place]:
    return [strained.place(name) for name in MAIN]


@pytest.fixture
def valkey(strained: Cluster) -> EmbeddedValkey:
    assert strained.stack.valkey is not None
    return strained.stack.valkey


@pytest.fixture
def redis(strained: Cluster) -> Iterator[Redis]:
    """A connection of its own to whatever listens at the address."""
    with Redis.from_url(strained.redis_url) as redis:
        yield redis


def publish(name: str, numbers: range) -> None:
    for number in numbers:
        realtime.publish("contract", Group(name), number)


def whole(clients: list[Listener], numbers: range) -> None:
    """Everybody has got all of it, in order and once; nobody was told anything else, and nobody has left."""
    for client in clients:
        client.until(lambda it: it.values[-1:] == [numbers[-1]])
        assert client.values == list(numbers)
        assert client.others == []  # no `gap`
        assert not client.ended


@contextmanager
def deaf(redis: Redis) -> Iterator[None]:
    """Around what no server hears: what they want is not let in, and what they have is cut."""
    redis.acl_setuser("default", enabled=True, commands=["-subscribe"], keys=["*"], channels=["*"])
    assert redis.client_kill_filter(_type="pubsub")
    yield


def test_an_overrun_output_buffer(both: list[Place], redis: Redis, name: str) -> None:
    # contract 7.4: Redis cuts off who does not read fast enough; what was thrown away with the buffer is read again
    limit = redis.config_get("client-output-buffer-limit")["client-output-buffer-limit"]
    channel = Topic("contract", Group(name)).channel("rt")
    with listeners(both, name) as clients:
        redis.config_set("client-output-buffer-limit", "pubsub 65536 65536 1")
        try:
            for burst in range(4):
                cut = int(redis.info("stats")["client_output_buffer_limit_disconnections"])
                # Only who hears the topic is cut off: a server's second process may have none of the clients.
                [(_, processes)] = redis.pubsub_numsub(channel)
                assert processes >= len(both)
                # In one script, so that Redis writes nothing to anybody in between; a history holds a hundred.
                some = [f"{number} {'x' * 4_096}" for number in range(burst * 60, burst * 60 + 60)]
                realtime.publish_many([("contract", Group(name), each) for each in some])
                wait_until(
                    lambda cut=cut, processes=processes: (  # type: ignore[misc]
                        int(redis.info("stats")["client_output_buffer_limit_disconnections"]) == cut + processes
                    ),
                    what="not everybody was cut off",
                )
                for client in clients:
                    client.until(lambda it, n=burst * 60 + 60: len(it.values) >= n)  # type: ignore[misc]
        finally:
            redis.config_set("client-output-buffer-limit", str(limit))
        for client in clients:
            assert [int(value.partition(" ")[0]) for value in client.values] == list(range(240))
            assert client.others == []
            assert not client.ended


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_restarted_with_its_data(
    both: list[Place], valkey: EmbeddedValkey, redis: Redis, name: str, how: Literal["stop", "kill"]
) -> None:
    # contract 7.4: what no server had heard before Redis went is there when it comes back: no gap and no duplicate
    with listeners(both, name) as clients:
        publish(name, range(20))
        with deaf(redis):
            publish(name, range(20, 60))
            valkey.stop(SAVING if how == "stop" else 0.0)
        valkey.start()  # who may do what is not kept
        publish(name, range(60, 90))
        whole(clients, range(90))


def test_restarted_without_its_data(
    both: list[Place], valkey: EmbeddedValkey, redis: Redis, strained: Cluster, name: str
) -> None:
    # contract 7.4: what no server had heard is lost: v1 clients are told; what comes then comes whole, to everybody
    with listeners(both, name) as clients:
        publish(name, range(20))
        with deaf(redis):
            publish(name, range(20, 60))
            valkey.stop()
        shutil.rmtree(strained.stack.directory / "appendonlydir")
        valkey.start()
        publish(name, range(60, 90))
        for client in clients:
            client.until(lambda it: it.values[-1:] == [89])
            assert client.values == [*range(20), *range(60, 90)]
            assert [each["op"] for each in client.others] == (["gap"] if client.websocket.subprotocol == V1 else [])
            assert not client.ended


# A replica takes over


@contextmanager
def replica_of(valkey: EmbeddedValkey, redis: Redis, directory: Path) -> Iterator[Redis]:
    """Another Valkey, with all that this one has; at the end the first one is back at its address."""
    processes = len(redis.client_list(_type="pubsub"))
    redis.config_set("repl-diskless-sync-delay", 0)
    with EmbeddedValkey(config={"dir": str(directory)}) as replica, Redis.from_url(replica.url) as told:
        told.replicaof("127.0.0.1", valkey.port)
        try:
            wait_until(lambda: told.info("replication")["master_link_status"] == "up", what="it does not follow")
            yield told
        finally:
            replica.stop()
            valkey.stop()
            valkey.start()
            wait_until(lambda: len(redis.client_list(_type="pubsub")) >= processes, what="not everybody is back")


def stands(told: Redis, name: str) -> int:
    """The `seq` of the last message that a Valkey has."""
    return int(told.hget(f"{Topic('contract', Group(name)).channel('rt')}:meta", "s") or 0)


def take_over(valkey: EmbeddedValkey, told: Redis) -> None:
    """The primary dies; the replica is promoted, and is what listens at the address from now on."""
    valkey.stop()
    told.replicaof("NO", "ONE")
    told.config_set("port", valkey.port)


def test_a_replica_is_promoted(
    both: list[Place], valkey: EmbeddedValkey, redis: Redis, tmp_path: Path, name: str
) -> None:
    # contract 7.4: it has all that was acknowledged: no gap and no duplicate
    with listeners(both, name) as clients, replica_of(valkey, redis, tmp_path) as told:
        publish(name, range(20))
        with deaf(redis):
            publish(name, range(20, 60))
            wait_until(lambda: stands(told, name) == 60, what="the replica lags")
            take_over(valkey, told)
        publish(name, range(60, 90))
        whole(clients, range(90))


def test_a_replica_that_lagged_is_promoted(
    both: list[Place], valkey: EmbeddedValkey, redis: Redis, tmp_path: Path, name: str
) -> None:
    # contract 7.4: what was acknowledged is lost to Redis: a new epoch begins, v1 clients are told, nothing comes twice
    with listeners(both, name) as clients, replica_of(valkey, redis, tmp_path) as told:
        publish(name, range(20))
        wait_until(lambda: stands(told, name) == 20, what="the replica lags")
        told.replicaof("NO", "ONE")  # from now on it is told nothing
        publish(name, range(20, 40))
        for client in clients:
            client.until(lambda it: it.values[-1:] == [39])
        take_over(valkey, told)
        for client in clients:
            if client.websocket.subprotocol == V1:
                client.until(lambda it: it.others)
        publish(name, range(40, 90))
        for client in clients:
            client.until(lambda it: it.values[-1:] == [89])
            assert client.values == list(range(90))
            assert [each["op"] for each in client.others] == (["gap"] if client.websocket.subprotocol == V1 else [])
            assert not client.ended
