"""1 to 4: what a publish costs its caller.

What is measured: the wall time of one call, as a view makes it, from the call to its return; Redis runs beside it on
the same machine. The message is the same small JSON object for all, and each candidate sends it to one channel that
nobody listens to, so no delivery is in the figures. Calls from sync code come one by one in a shuffled order, so that
each candidate finds the caches as the others have left them, as in a view. The rate is that of one thread that does
nothing else.

Why it is fair: the peers are called as their documentation says (`async_to_sync(group_send)` from sync code, awaited
from async code), with their default settings, in a process that has done nothing else with an event loop. The group of
RedisChannelLayer has one member, or it would do nothing. The floor is redis-py's own pooled client with hiredis, which
sends bytes that were ready before: it serialises nothing and checks nothing.

Two cores have to wake for a call, Redis's and then the caller's. On a virtual machine with nothing else to do that can
take several times as long as all that is measured here, and by chance more for the one than for the other. So the cores
are kept awake for all candidates alike, by loops of the lowest priority (`SCHED_IDLE`), as a server's are by requests.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final

import redis
from asgiref.sync import async_to_sync
from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer
from redis import asyncio as aioredis

from benchmarks.process import awake
from benchmarks.result import Bound, Result, Round, interleaved, shuffled
from benchmarks.world import World
from shim import Everyone, History, realtime

MESSAGE: Final = {"event": "ring", "call": 42, "from": "ana", "room": "ward 7", "at": "2026-11-22T18:00:00Z"}
BODY: Final = json.dumps(MESSAGE, separators=(",", ":")).encode()
NONE: Final = History(size=0)
GROUP: Final = "bench"
MANY: Final = 100
BURST: Final = 0.1  # seconds
ROUNDS: Final = 9
NAMES: Final = (
    "1 sync publish",
    "1 sync publish, rate",
    "2 sync publish with history",
    "3 publish_many",
    "3 publish_many with history",
    "4 async publish",
)


def measures(world: World) -> Iterator[Result]:
    """The results, one after the other."""
    yield from _sync(world)
    yield from _many(world)
    yield from _async(world)


def _timed(call: Callable[[], object], times: int) -> list[float]:
    clock = time.perf_counter
    found = []
    for _ in range(times):
        started = clock()
        call()
        found.append((clock() - started) * 1e6)
    return found


def _layers(world: World) -> tuple[RedisPubSubChannelLayer, RedisChannelLayer]:
    return RedisPubSubChannelLayer(hosts=[world.redis_url]), RedisChannelLayer(hosts=[world.redis_url])


def _rate(call: Callable[[], object]) -> list[float]:
    times, ends = 0, time.perf_counter() + BURST
    while time.perf_counter() < ends:
        call()
        times += 1
    return [times / (time.perf_counter() - ends + BURST)]


def _sync(world: World) -> Iterator[Result]:
    pubsub, core = _layers(world)
    send, core_send = async_to_sync(pubsub.group_send), async_to_sync(core.group_send)
    async_to_sync(core.group_add)(GROUP, "specific.bench!one")
    event = {"type": "ring", "message": MESSAGE}
    client: Any = redis.Redis.from_url(world.redis_url)
    calls: dict[str, tuple[Callable[[], object], int]] = {
        "ours": (lambda: realtime.publish("calls", Everyone(), MESSAGE, history=NONE), 400),
        "ours, history": (lambda: realtime.publish("calls", Everyone(), MESSAGE), 400),
        "floor": (lambda: client.publish("bench", BODY), 400),
        "pub/sub layer": (lambda: send(GROUP, event), 12),
        "core layer": (lambda: core_send(GROUP, event), 12),
    }
    rates: dict[str, Round] = {name: lambda call=call: _rate(call) for name, (call, _) in calls.items()}  # type: ignore[misc]
    rounds = world.rounds(ROUNDS)
    with world.step("publishing from sync code", rounds * (1 + len(rates))) as advance, awake():
        found = shuffled(calls, rounds, advance)
        often = interleaved(rates, rounds, advance)
    client.close()
    peers = ("pub/sub layer", "core layer")
    yield world.result("1 sync publish", "µs", found, "ours", peers, "floor", (_PEER, Bound("floor", "<=", 1.15)))
    bounds = (Bound("peer", ">=", 20), Bound("floor", ">=", 1 / 1.15))
    yield world.result("1 sync publish, rate", "calls/s", often, "ours", peers, "floor", bounds)
    yield world.result(
        "2 sync publish with history", "µs", found, "ours, history", peers, "floor", (Bound("floor", "<=", 1.35),)
    )


_PEER: Final = Bound("peer", "<=", 1 / 20)


def _many(world: World) -> Iterator[Result]:
    pubsub, _ = _layers(world)
    send = async_to_sync(pubsub.group_send)
    event = {"type": "ring", "message": MESSAGE}
    client: Any = redis.Redis.from_url(world.redis_url)
    batch = [("calls", Everyone(), MESSAGE)] * MANY

    def floor() -> None:
        pipeline = client.pipeline(transaction=False)
        for _ in range(MANY):
            pipeline.publish("bench", BODY)
        pipeline.execute()

    def peer() -> None:
        for _ in range(MANY):
            send(GROUP, event)

    candidates: dict[str, Callable[[], Sequence[float]]] = {
        "ours": lambda: _timed(lambda: realtime.publish_many(batch, history=NONE), 30),
        "ours, history": lambda: _timed(lambda: realtime.publish_many(batch), 30),
        "floor": lambda: _timed(floor, 30),
        "pub/sub layer": lambda: _timed(peer, 1),
    }
    with world.step("publishing a hundred at once", world.rounds(ROUNDS) * len(candidates)) as advance, awake():
        found = interleaved(candidates, world.rounds(ROUNDS), advance)
    client.close()
    peers = ("pub/sub layer",)
    yield world.result("3 publish_many", "µs", found, "ours", peers, "floor", (Bound("floor", "<=", 1.25),))
    yield world.result(
        "3 publish_many with history", "µs", found, "ours, history", peers, "floor", (Bound("floor", "<=", 1.6),)
    )


def _async(world: World) -> Iterator[Result]:
    found = asyncio.run(_async_rounds(world))
    yield world.result(
        "4 async publish",
        "µs",
        found,
        "ours",
        ("pub/sub layer", "core layer"),
        "floor",
        (Bound("floor", "<=", 1.15), Bound("peer", "<=", 1.0)),
    )


async def _async_rounds(world: World) -> dict[str, list[float]]:
    pubsub, core = _layers(world)
    client: Any = aioredis.Redis.from_url(world.redis_url)
    event = {"type": "ring", "message": MESSAGE}
    await core.group_add(GROUP, "specific.bench!one")
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "ours": lambda: realtime.apublish("calls", Everyone(), MESSAGE, history=NONE),
        "floor": lambda: client.publish("bench", BODY),
        "pub/sub layer": lambda: pubsub.group_send(GROUP, event),
        "core layer": lambda: core.group_send(GROUP, event),
    }
    names = list(calls)
    found: dict[str, list[float]] = {name: [] for name in names}
    with world.step("publishing from async code", world.rounds(ROUNDS) * len(calls)) as advance, awake():
        for turn in range(world.rounds(ROUNDS)):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                call, times = calls[name], []
                for _ in range(300):
                    started = time.perf_counter()
                    await call()
                    times.append((time.perf_counter() - started) * 1e6)
                found[name].append(sorted(times)[len(times) // 2])
                advance()
    await client.aclose()
    await pubsub.flush()
    await core.close_pools()
    return found
