"""12: whether a message costs more where there is more of everything.

What is measured: CPU microseconds of a message. For topics and history, of its caller and of Redis together, with so
many topics that have a past, and with so many messages kept in the topic. For connections, of the one worker, for a
message to one of a hundred people among so many connections. The figure is the slope of a line through the logarithms
of size and cost: 0 is flat, 1 is a cost that grows as the size does.

Why it is fair: it has no peer but itself. Each size is measured several times, and the least counts: what else the
machine does only ever adds.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from resource import RLIMIT_NOFILE, getrlimit
from typing import Any, Final

import redis
from django.test import override_settings

from benchmarks.crowd import Crowd
from benchmarks.fanout import FRAME_BYTES, NONE, TEXT
from benchmarks.field import LEGACY, OURS, field, prefix
from benchmarks.people import signed_in
from benchmarks.result import Bound, Result, slope
from benchmarks.world import World
from shim import Everyone, Group, History, User, realtime

TOPICS: Final = (100, 1_000, 10_000, 100_000)
CONNECTIONS: Final = (100, 1_000, 10_000)  # the last one less where so many files cannot be open
HISTORIES: Final = (10, 100, 1_000)
MESSAGES: Final = 1_000  # of one try
TRIES: Final = 5
PUBLISHES: Final = 250  # and where none is delivered
REPEATS: Final = 24
BATCH: Final = 500
LONG: Final = 3_600.0  # seconds: nothing is forgotten meanwhile
BOUND: Final = (Bound("ours", "<=", 0.05),)
NAMES: Final = ("12 more topics", "12 longer history", *(f"12 more connections, {name}" for name in OURS))


def measures(world: World) -> Iterator[Result]:
    """The results."""
    client: Any = redis.Redis.from_url(world.redis_url)
    with world.prefix("rt-size"):
        yield _result("12 more topics", TOPICS, {"caller and Redis": _topics(world, client)})
        yield _result("12 longer history", HISTORIES, {"caller and Redis": _histories(world, client)})
    client.flushall()
    client.close()
    for name in OURS:
        # On legacy a connection is two open files: the server's own, and ours.
        room = (getrlimit(RLIMIT_NOFILE)[1] - 1_000) // (2 if name == LEGACY else 1)
        sizes = [min(size, room) for size in CONNECTIONS]
        yield _result(f"12 more connections, {name}", sizes, {name: _connections(world, name, sizes)})


def _result(name: str, sizes: Sequence[int], series: dict[str, list[float]]) -> Result:
    costs = next(iter(series.values()))
    details = {"µs": {f"{size:,}": round(cost, 1) for size, cost in zip(sizes, costs, strict=True)}}
    return Result(name, "log-log slope", slope(sizes, costs), None, None, BOUND, details, series, sizes)


def _cost(client: Any, publish: Callable[[int], object]) -> float:
    """CPU microseconds of a publish, here and in Redis."""

    def spent() -> float:
        used = client.info("cpu")
        return float(time.process_time() + used["used_cpu_user"] + used["used_cpu_sys"])

    before = spent()
    for number in range(PUBLISHES):
        publish(number)
    return (spent() - before) / PUBLISHES * 1e6


def _topics(world: World, client: Any) -> list[float]:
    """Each size in a database of its own, so that they can take turns: what else the machine does falls on all."""
    history = History(size=10, ttl=LONG)
    found: dict[int, list[float]] = {size: [] for size in TOPICS}

    def database(size: int) -> AbstractContextManager[object]:
        return override_settings(REALTIME_REDIS_URL=f"{world.redis_url.removesuffix('/0')}/{TOPICS.index(size) + 1}")

    with world.step("more topics", sum(-(-size // BATCH) for size in TOPICS)) as advance:
        for size in TOPICS:
            with database(size):
                for start in range(0, size, BATCH):
                    numbers = range(start, min(start + BATCH, size))
                    batch = [("bench", Group(f"g{number}"), TEXT) for number in numbers]
                    realtime.publish_many(batch, history=history)
                    advance()
    with world.step("more topics", REPEATS) as advance:
        for _ in range(REPEATS):
            for size, costs in found.items():
                topics = [Group(f"g{number * size // 100}") for number in range(100)]  # from all over

                def publish(number: int, topics: list[Group] = topics) -> None:
                    realtime.publish("bench", topics[number % 100], TEXT, history=history)

                with database(size):
                    for number in range(100):  # over a new connection
                        publish(number)
                    costs.append(_cost(client, publish))
            advance()
    return [min(costs) for costs in found.values()]


def _histories(world: World, client: Any) -> list[float]:
    found: dict[int, list[float]] = {size: [] for size in HISTORIES}
    for size in HISTORIES:
        to, history = Group(f"kept-{size}"), History(size=size, ttl=LONG)
        for start in range(0, 2 * size, BATCH):
            batch = [("bench", to, TEXT)] * min(BATCH, 2 * size - start)
            realtime.publish_many(batch, history=history)

    def publisher(size: int) -> Callable[[int], object]:
        to, history = Group(f"kept-{size}"), History(size=size, ttl=LONG)
        return lambda _: realtime.publish("bench", to, TEXT, history=history)

    with world.step("longer history", REPEATS) as advance:
        for _ in range(REPEATS):
            for size, costs in found.items():
                costs.append(_cost(client, publisher(size)))
            advance()
    return [min(costs) for costs in found.values()]


def _connections(world: World, name: str, sizes: Sequence[int]) -> list[float]:
    people = signed_in(sizes[0])
    batches = [[("bench", User(user), TEXT) for user, _ in people]] * (MESSAGES // len(people))
    found = []
    with field(world, [name]) as servers, ExitStack() as stack, world.step(f"more: {name}", sizes[-1]) as advance:
        server = servers[name]
        stack.enter_context(server.blamed())
        cookies = [cookie for _, cookie in people]
        listening = stack.enter_context(
            Crowd(server.port, ["/ws/bench"] * len(people), cookies=cookies, on_open=advance)
        )
        held = len(people)
        for size in sizes:
            if size > held:
                stack.enter_context(Crowd(server.port, ["/ws/bench"] * (size - held), on_open=advance))
                held = size
            costs = []
            for _ in range(TRIES):
                before = server.cpu()
                with world.prefix(prefix(name)):
                    for batch in batches:
                        realtime.publish_many(batch, history=NONE)
                        listening.drain(len(batch) * FRAME_BYTES)
                costs.append((server.cpu() - before) / MESSAGES * 1e6)
            found.append(min(costs))
        with world.prefix(prefix(name)):  # and everybody was there, indeed
            realtime.publish("bench", Everyone(), TEXT, history=NONE)
        listening.drain(len(people) * FRAME_BYTES)
    return found
