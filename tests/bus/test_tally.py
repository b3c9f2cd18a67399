"""Counting over all processes: on a real Redis and on the one in memory alike."""

import uuid
from collections.abc import Callable

import pytest
import redis

from shim.bus.memory_redis import MemoryRedis
from shim.bus.sync import SyncBus
from shim.bus.tally import tally_command, tally_from
from shim.core.errors import RealtimeUnavailable

type Run = Callable[..., object]


@pytest.fixture(params=["real", "memory"])
def run(request: pytest.FixtureRequest, url: str) -> Run:
    if request.param == "memory":
        return lambda *command: MEMORY.call(command)
    return SyncBus(url, prefix="t").execute


MEMORY = MemoryRedis()


def test_counts_each_name_by_itself(run: Run) -> None:
    prefix = f"t{uuid.uuid4().hex[:12]}"
    for n in (1, 2, 3):
        assert tally_from(run(*tally_command(prefix, "ana", 60))) == n
    assert tally_from(run(*tally_command(prefix, "ben \ud800 " * 1_000, 60))) == 1
    assert tally_from(run(*tally_command(prefix + "x", "ana", 60))) == 1


def test_is_forgotten_when_it_has_not_grown_for_a_while(url: str) -> None:
    prefix, now = f"t{uuid.uuid4().hex[:12]}", [0.0]
    memory = MemoryRedis(lambda: now[0])
    counts = []
    for later in (0.0, 50.0, 50.0, 60.1):
        now[0] += later
        counts.append(memory.call(tally_command(prefix, "ana", 60)))
    assert counts == [1, 2, 3, 1]
    command = tally_command(prefix, "ana", 60)
    SyncBus(url, prefix="t").execute(*command)
    with redis.Redis.from_url(url) as client:
        assert 59_000 < client.pttl(str(command[3])) <= 60_000


def test_a_name_is_not_kept() -> None:
    # It may be a session's key.
    assert "s3cret" not in str(tally_command("rt", "session:s3cret", 60))


def test_what_is_no_count_is_refused() -> None:
    with pytest.raises(RealtimeUnavailable, match="did not count"):
        tally_from(b"OK")
