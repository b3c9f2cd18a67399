"""8: the memory of a connection that does nothing.

What is measured: resident memory of the one worker, before and after so many anonymous raw clients have connected and
a first message has gone to each, divided by their number.

Why it is fair: all servers serve the same handshakes, one server after the other. The floors hold what their kind of
server cannot do without: uvicorn with an application that accepts and waits, and a uWSGI greenlet that does the same on
its socket; a greenlet and a socket without a server around them are in the details. None of them knows who is there or
what they listen to.
"""

import os
from collections.abc import Iterator
from typing import Final

from benchmarks.crowd import Crowd
from benchmarks.fanout import FRAME_BYTES, TEXT, publishers
from benchmarks.field import BARE_ASGI, BARE_GREENLETS, BARE_UWSGI, CHANNELS, LEGACY, ONE_EACH, STOCK, field
from benchmarks.result import Bound, Result
from benchmarks.world import World

CONNECTIONS: Final = int(os.environ.get("CONNECTIONS") or 5_000)
WARM: Final = 100
NAMES: Final = (
    "8 idle connection, channels",
    "8 idle connection, legacy",
)


def measures(world: World) -> Iterator[Result]:
    """The results."""
    servers = (CHANNELS, LEGACY, STOCK, ONE_EACH, BARE_ASGI, BARE_UWSGI, BARE_GREENLETS)
    found = {name: [_each(world, name)] for name in servers}
    bound = (Bound("floor", "<=", 1.2),)
    yield world.result("8 idle connection, channels", "KiB", found, CHANNELS, (STOCK,), BARE_ASGI, bound)
    yield world.result("8 idle connection, legacy", "KiB", found, LEGACY, (ONE_EACH, BARE_GREENLETS), BARE_UWSGI, bound)


def _each(world: World, name: str) -> float:
    with publishers(world) as publish, field(world, [name]) as servers:
        server = servers[name]
        with (
            world.step(f"memory: {name}", CONNECTIONS + WARM) as advance,
            server.blamed(),
            Crowd(server.port, ["/ws/bench"] * WARM, on_open=advance) as first,
        ):
            before = server.memory()
            with Crowd(server.port, ["/ws/bench"] * CONNECTIONS, on_open=advance) as crowd:
                if name in publish:
                    publish[name](TEXT)
                    first.drain(WARM * FRAME_BYTES)
                    crowd.drain(CONNECTIONS * FRAME_BYTES)
                return (server.memory() - before) / CONNECTIONS / 1024
