"""What connections leave behind: nothing. Looked at from outside: Redis, and the processes' descriptors."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.integration.contract.cluster import MORE, Cluster, Place, wait_until
from tests.integration.contract.wire import TEXT, Wire, close_frame, frame, raw

pytestmark = pytest.mark.servers

SLACK = 2  # descriptors of a pool of connections to Redis, opened when two wanted one at once


@pytest.fixture
def redis(cluster: Cluster) -> Iterator[Any]:
    with Redis.from_url(cluster.redis_url) as redis:
        yield redis


def descriptors(pids: set[int]) -> Counter[int]:
    found: Counter[int] = Counter()
    for pid in pids:
        with suppress(FileNotFoundError):
            found[pid] = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208  # names, not paths
    return found


def databases(pids: set[int]) -> int:
    """Open descriptors of SQLite files."""
    found = 0
    for pid in pids:
        for number in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208
            with suppress(FileNotFoundError):
                found += Path(f"/proc/{pid}/fd/{number}").readlink().name == "db.sqlite3"
    return found


def come_and_go(place: Place, name: str, n: int) -> None:
    """Open and leave in every way there is, one after the other, without waiting for anything."""
    for number in range(n):
        facility = ("contract", "contract-async")[number // 6 % 2]
        path = place.path(facility, listen=[["g", f"{name}-{number}"], ["g", name]])
        protocol = "realtime.v1" if number % 2 else None
        match number % 6:
            case 0:  # before the answer
                wire = Wire(place)
                wire.send_handshake(path)
                wire.reset()
            case 1:  # right after it
                Wire(place).opened(path, protocol=protocol).reset()
            case 2:  # with a message on its way
                wire = Wire(place).opened(path)
                wire.send(frame(TEXT, b'{"do":"echo","value":"x"}'))
                wire.close()
            case 3:
                wire = Wire(place).opened(path, protocol=protocol).hello()
                wire.send(close_frame(1000))
                wire.close()
            case 4:
                wire = Wire(place).opened(path)
                wire.send(frame(TEXT, b'{"do":"raise"}') + frame(0x3))
                wire.close()
            case 5:  # with the history on its way
                wire = Wire(place).opened(path, protocol=protocol)
                wire.send(frame(TEXT, b'{"op":"hello","resume":{"group:%b":["x",1]}}' % name.encode()))
                wire.reset()


def test_nothing_stays(place: Place, cluster: Cluster, redis: Any, name: str) -> None:
    def topics() -> list[bytes]:
        return [channel for channel in redis.pubsub_channels() if name.encode() in channel]

    pids = cluster.pids(place.name)
    come_and_go(place, f"{name}-warm", 24)
    wait_until(lambda: not topics(), what="topics stay subscribed")
    before = descriptors(pids)
    come_and_go(place, name, 150)
    wait_until(lambda: not topics(), what="topics stay subscribed")
    wait_until(
        lambda: all(descriptors(pids)[pid] <= before[pid] + SLACK for pid in pids),
        what=f"descriptors stay open: {before} before, now {descriptors(pids)}",
    )


def test_a_topic_is_one_subscription(both: list[Place], cluster: Cluster, redis: Any, name: str) -> None:
    # One for each process that has somebody for it, however many there are; and no longer than that.
    come_and_go(both[0], f"{name}-warm", 12)
    with ExitStack() as stack:
        for place in both * 8:
            stack.enter_context(raw(place, listen=[["g", name]]))
        assert len(_channels(redis, name)) == 1
        subscribers = [int(each["sub"]) for each in redis.client_list(_type="pubsub")]
        assert len(subscribers) <= sum(len(cluster.pids(place.name)) for place in both) + len(MORE)
        assert sum(each >= 2 for each in subscribers) >= 2  # the control channel, and this one
    wait_until(lambda: not _channels(redis, name))


def _channels(redis: Any, part: str) -> list[bytes]:
    return [channel for channel in redis.pubsub_channels() if part.encode() in channel]


def test_waiting_connections_hold_no_database(place: Place, cluster: Cluster, name: str) -> None:
    # Each of them has read the session and asked the ORM something; in between it must not hold a connection.
    pids = cluster.pids(place.name)
    with ExitStack() as stack:
        for number in range(24):
            facility = ("contract", "contract-async")[number % 2]
            websocket = stack.enter_context(raw(place, facility, listen=[]))
            websocket.send('{"do":"query"}')
            assert "users" in str(websocket.recv(20))
        # What is left is that of asgiref's one thread, where `sync_to_async` of an application's own runs.
        wait_until(lambda: databases(pids) <= 2 * len(pids), what=f"{databases(pids)} connections to the database")
