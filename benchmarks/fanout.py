"""5 and 6: one message to a thousand sockets of one process.

What is measured: CPU seconds of the one worker process, user and kernel, from the publish until every socket has all
its bytes. The figure is deliveries for each of these seconds. CPU and not wall time, because the thousand readers run
on the same machine and would otherwise be measured too.

Why it is fair: every server is one worker with the same event loop and the same HTTP parser where it has one, every
connection comes in with the same handshake, and all servers are up at the same time and take turns. The peer is the
stock consumer with the pub/sub layer. The floor is one loop over `socket.send` with a frame that is encoded once.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import redis
from asgiref.sync import async_to_sync
from channels_redis.pubsub import RedisPubSubChannelLayer

from benchmarks.crowd import Crowd
from benchmarks.field import CHANNELS, LEGACY, ONE_EACH, OURS, SOCKETS, STOCK, field, prefix
from benchmarks.result import Bound, Result
from benchmarks.world import World
from shim import Everyone, History, realtime

CONNECTIONS: Final = 1_000
MESSAGES: Final = 20
ROUNDS: Final = 5
TEXT: Final = json.dumps({"event": "ring", "call": 42, "from": "ana", "room": "ward 7"}, separators=(",", ":"))
FRAME_BYTES: Final = len(TEXT) + 2
NONE: Final = History(size=0)
NAMES: Final = (
    "5 fan-out, channels",
    "6 fan-out, legacy",
)


def measures(world: World) -> Iterator[Result]:
    """The results."""
    rates: dict[str, list[float]] = {name: [] for name in (CHANNELS, LEGACY, STOCK, ONE_EACH, SOCKETS)}
    with publishers(world) as publish, field(world, rates) as servers, ExitStack() as stack:
        crowds = {}
        for name, server in servers.items():
            with world.step(f"connecting: {name}", CONNECTIONS) as advance, server.blamed():
                crowd = Crowd(server.port, ["/ws/bench"] * CONNECTIONS, on_open=advance)
                crowds[name] = stack.enter_context(crowd)
        names, rounds = list(rates), world.rounds(ROUNDS)
        with world.step("one message to a thousand", (rounds + 1) * len(names)) as advance:
            for turn in range(rounds + 1):
                for name in names[turn % len(names) :] + names[: turn % len(names)]:
                    before = servers[name].cpu()
                    for _ in range(MESSAGES):
                        publish[name](TEXT)
                    with servers[name].blamed():
                        crowds[name].drain(CONNECTIONS * MESSAGES * FRAME_BYTES)
                    if turn:  # the first one warms up
                        rates[name].append(CONNECTIONS * MESSAGES / (servers[name].cpu() - before))
                    advance()
    unit = "deliveries / CPU s"
    bounds = (Bound("peer", ">=", 15.0), Bound("floor", ">=", 0.30))
    yield world.result("5 fan-out, channels", unit, rates, CHANNELS, (STOCK,), SOCKETS, bounds)
    yield world.result("6 fan-out, legacy", unit, rates, LEGACY, (ONE_EACH,), SOCKETS, (Bound("floor", ">=", 0.50),))


@contextmanager
def publishers(world: World) -> Iterator[Mapping[str, Callable[[str], None]]]:
    """How a text is published to everyone at each server."""
    send = async_to_sync(RedisPubSubChannelLayer(hosts=[world.redis_url]).group_send)
    client: Any = redis.Redis.from_url(world.redis_url)

    def ours(name: str) -> Callable[[str], None]:
        def publish(text: str) -> None:
            with world.prefix(prefix(name)):
                realtime.publish("bench", Everyone(), text, history=NONE)

        return publish

    yield {
        **{name: ours(name) for name in OURS},
        STOCK: lambda text: send("bench", {"type": "bench", "text": text}),
        ONE_EACH: lambda text: client.publish("ws4redis:broadcast:bench", text),
        SOCKETS: lambda text: client.publish("floor", text),
    }
    client.close()
