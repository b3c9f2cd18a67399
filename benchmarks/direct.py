"""7: direct messages: a thousand a second, each to another one of a thousand people.

What is measured: milliseconds from the call of `publish` in another process until the client has the text, and CPU
seconds of the one worker for ten thousand deliveries.

Why it is fair: every server has a thousand signed-in users, each alone in a topic (a group of the layer) of their own;
the servers take turns. The publisher is a process with a running loop, the peers' quickest way: `await group_send`, and
`await apublish` for ours. Who publishes and who reads costs the same for all, and none of it is in the CPU figure.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import quantiles
from typing import Final

from benchmarks.crowd import Crowd
from benchmarks.field import CHANNELS, LEGACY, OURS, STOCK, field, prefix
from benchmarks.people import signed_in
from benchmarks.publisher import STAMP, TEXT
from benchmarks.result import Bound, Result
from benchmarks.world import World

PEOPLE: Final = 1_000
RATE: Final = 1_000
MESSAGES: Final = 4_000  # of a round
ROUNDS: Final = 3
PERCENTS: Final = (50, 99)
NAMES: Final = tuple(f"7 direct messages, {name}, {what}" for name in OURS for what in ("CPU", "p50", "p99"))


def measures(world: World) -> Iterator[Result]:
    """The results."""
    names = (CHANNELS, LEGACY, STOCK)
    rounds = world.rounds(ROUNDS)
    cpu: dict[str, list[float]] = {name: [] for name in names}
    waits: dict[int, dict[str, list[float]]] = {percent: {name: [] for name in names} for percent in PERCENTS}
    cookies = [cookie for _, cookie in signed_in(PEOPLE)]
    with field(world, names) as servers, ExitStack() as stack:
        crowds, publishers = {}, {}
        for name, server in servers.items():
            paths = [f"/ws/bench/{number}" if name == STOCK else "/ws/bench" for number in range(PEOPLE)]
            with world.step(f"connecting: {name}", PEOPLE) as advance, server.blamed():
                crowds[name] = stack.enter_context(Crowd(server.port, paths, cookies=cookies, on_open=advance))
            publishers[name] = stack.enter_context(_publisher(world, name))
        with world.step("direct messages", (rounds + 1) * len(names)) as advance:
            for turn in range(rounds + 1):
                for name in names[turn % len(names) :] + names[: turn % len(names)]:
                    before = servers[name].cpu()
                    with servers[name].blamed():
                        found = _round(publishers[name], crowds[name], MESSAGES if turn else PEOPLE)
                    if turn:  # the first one warms up
                        cpu[name].append((servers[name].cpu() - before) / MESSAGES * 10_000)
                        cuts = quantiles(found, n=100)
                        for percent in PERCENTS:
                            waits[percent][name].append(cuts[percent - 1])
                    advance()
    for name in OURS:
        start = f"7 direct messages, {name}"
        unit = "CPU s for 10,000"
        yield world.result(f"{start}, CPU", unit, cpu, name, (STOCK,), None, (Bound("peer", "<=", 1 / 3),))
        for percent in PERCENTS:
            bounds = (Bound("peer", "<=", 1.0),) if percent == 99 else ()
            yield world.result(f"{start}, p{percent}", "ms", waits[percent], name, (STOCK,), None, bounds)


@contextmanager
def _publisher(world: World, name: str) -> Iterator[subprocess.Popen[str]]:
    kind = "ours" if name in OURS else "stock"
    env = {**os.environ, **world.env, "REALTIME_PREFIX": prefix(name)}
    command = [sys.executable, "-m", "benchmarks.publisher", kind, world.redis_url, str(RATE), str(PEOPLE)]
    with subprocess.Popen(  # noqa: S603  # our own module
        command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.communicate(timeout=10)  # ends its input, too


def _round(publisher: subprocess.Popen[str], crowd: Crowd, messages: int) -> list[float]:
    """The milliseconds that each message took."""
    asked, said = publisher.stdin, publisher.stdout
    if asked is None or said is None:
        raise ValueError("the publisher has no pipes")
    asked.write(f"{messages}\n")
    asked.flush()
    frames = crowd.frames(messages, 2 + STAMP + len(TEXT))
    found = [(time.monotonic_ns() - int(data[2 : 2 + STAMP])) / 1e6 for data in frames]
    if said.readline() != "done\n":
        raise ConnectionError("the publisher has ended")
    return found
