"""10: what Redis is asked to do.

What is measured: calls, by `INFO commandstats` before and after, of everything that clients sent to Redis; commands
that only scripts send are part of a call. A message goes to 50 receivers of one process; a connect is one of 200
anonymous raw clients; heartbeats are of 200 connections that are pinged twice a second and answer. What a process does
by the clock, whoever is there, is measured too and taken away: from the messages what the servers do in the same time
without any, from the heartbeats what the same server does with one connection.

Why it is fair: Redis itself counts. The peers are both channel layers with the stock consumer's groups.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import redis
from asgiref.sync import async_to_sync
from channels_redis.core import RedisChannelLayer

from benchmarks.crowd import Answering, Crowd
from benchmarks.fanout import FRAME_BYTES, TEXT, publishers
from benchmarks.field import CHANNELS, LEGACY, OURS, STOCK, field
from benchmarks.result import Bound, Result
from benchmarks.world import World
from shim import Everyone, realtime

CONNECTIONS: Final = 200
RECEIVERS: Final = 50
MESSAGES: Final = 250
TRIES: Final = 3
BEAT: Final = 0.5  # seconds: of the run that counts heartbeats
IDLE: Final = 3.0

_INSIDE: Final = frozenset({"hmget", "hset", "pttl", "pexpire", "xadd", "time", "xrange", "xrevrange", "xlen", "del"})
"""Commands that only our scripts send: part of one call, and counted in the details."""

_OURSELVES: Final = frozenset({"info", "ping", "config|resetstat", "client|setinfo", "client|setname", "hello", "auth"})
NAMES: Final = (
    "10 Redis commands, each message",
    "10 Redis commands, each connect",
    "10 Redis commands, each heartbeat",
)


def measures(world: World) -> Iterator[Result]:
    """The results."""
    client: Any = redis.Redis.from_url(world.redis_url, decode_responses=True)
    ours: dict[str, dict[str, float]] = {}
    with world.step("Redis's commands", 5) as advance:
        with publishers(world) as publish, field(world, [CHANNELS, LEGACY, STOCK]) as servers:
            for name, server in servers.items():
                with server.blamed():
                    ours[name] = _served(client, server.port, publish[name])
                advance()
        core = _core(world, client)
        advance()
        with field(world, OURS, settings={name: {"REALTIME_LIMITS": {"heartbeat": BEAT}} for name in OURS}) as servers:
            beats = {name: _idle(client, server.port) for name, server in servers.items()}
        with world.prefix("rt-count"):
            keeping = lambda: [realtime.publish("bench", Everyone(), TEXT) for _ in range(MESSAGES)]  # noqa: E731
            kept = _count(client, keeping, _INSIDE | {"publish"})  # here it is the script that says PUBLISH
        advance()
    client.close()
    one = (Bound("ours", "<=", 1.0),)
    worst = lambda what: max(ours[name][what] for name in OURS)  # noqa: E731
    yield Result(
        "10 Redis commands, each message",
        "commands",
        worst("message"),
        ours[STOCK]["message"],
        1.0,
        one,
        {**{name: each["message"] for name, each in ours.items()}, "core layer": core, "with history": kept / MESSAGES},
    )
    yield Result(
        "10 Redis commands, each connect",
        "commands",
        worst("connect"),
        ours[STOCK]["connect"],
        None,
        (Bound("ours", "<=", 3.0),),
        {name: each["connect"] for name, each in ours.items()},
    )
    yield Result(
        "10 Redis commands, each heartbeat",
        "commands",
        max(beats.values()),
        None,
        0.0,
        (Bound("ours", "<=", 0.0),),
        beats,
    )


def _served(client: Any, port: int, publish: Callable[[str], None]) -> dict[str, float]:
    nothing = lambda: None  # noqa: E731
    with Crowd(port, ["/ws/bench"], on_open=nothing):  # the process is awake
        crowds = []
        connects = _count(client, lambda: crowds.append(Crowd(port, ["/ws/bench"] * CONNECTIONS, on_open=nothing)))
        crowds[0].__exit__()
        with Crowd(port, ["/ws/bench"] * RECEIVERS, on_open=nothing) as crowd:
            by_clock = _count(client, lambda: time.sleep(IDLE)) / IDLE
            messages = min(_each(client, publish, crowd, by_clock) for _ in range(TRIES))
    return {"connect": round(connects / CONNECTIONS, 2), "message": round(messages, 2)}


def _each(client: Any, publish: Callable[[str], None], crowd: Crowd, by_clock: float) -> float:
    """Commands for a message, without those that so many servers send in a second whatever happens."""
    began = time.monotonic()
    calls = _count(client, lambda: _sent(publish, crowd))
    return (calls - by_clock * (time.monotonic() - began)) / MESSAGES


def _sent(publish: Callable[[str], None], crowd: Crowd) -> None:
    for _ in range(MESSAGES):
        publish(TEXT)
    crowd.drain(len(crowd) * MESSAGES * FRAME_BYTES)


def _core(world: World, client: Any) -> float:
    layer = RedisChannelLayer(hosts=[world.redis_url])
    for number in range(10):
        async_to_sync(layer.group_add)("bench", f"specific.bench!{number}")
    send = async_to_sync(layer.group_send)
    return _count(client, lambda: [send("bench", {"type": "bench", "text": TEXT}) for _ in range(MESSAGES)]) / MESSAGES


def _idle(client: Any, port: int) -> float:
    counts = []
    for connections in (1, CONNECTIONS):
        with Answering(port, ["/ws/bench"] * connections, on_open=lambda: None) as crowd:
            counts.append(_count(client, lambda: crowd.answer(IDLE)))
            answered = crowd.answered
    return max(0.0, round((counts[1] - counts[0]) / answered, 2))


def _count(client: Any, work: Callable[[], object], inside: frozenset[str] = _INSIDE) -> int:
    client.config_resetstat()
    work()
    stats = client.info("commandstats")
    return sum(
        stat["calls"] for name, stat in stats.items() if name.removeprefix("cmdstat_") not in inside | _OURSELVES
    )
