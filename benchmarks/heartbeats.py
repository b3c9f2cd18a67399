"""9: what it costs to know that a thousand quiet clients are there.

What is measured: CPU seconds of the one worker during fifty seconds, so two heartbeats of each connection, told for
sixty. Nothing else happens: whatever a server does by the clock is in the figure.

Why it is fair: all servers are up at the same time, with a thousand connections each, and live through the same
seconds; the clients answer each heartbeat. Ours send ping frames. The peer is the stock consumer with a task for each
connection, which says `ping` as a text, as JavaScript can answer it, and takes the answer.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Event, Thread
from typing import Final

from benchmarks.crowd import Answering
from benchmarks.field import CHANNELS, LEGACY, OURS, TASK_EACH, field
from benchmarks.result import Bound, Result
from benchmarks.world import World

CONNECTIONS: Final = 1_000
PERIOD: Final = 25.0
PERIODS: Final = 2
ANSWER: Final = 120.0  # nobody answers while the rest of a crowd connects
NAMES: Final = tuple(f"9 heartbeats, {name}" for name in OURS)


def measures(world: World) -> Iterator[Result]:
    """The results."""
    names = (CHANNELS, LEGACY, TASK_EACH)
    settings = {name: {"REALTIME_LIMITS": {"heartbeat": PERIOD, "answer": ANSWER}} for name in OURS}
    spent: dict[str, list[float]] = {name: [] for name in names}
    asked: dict[str, int] = {}
    with field(world, names, settings=settings) as servers, ExitStack() as stack:
        crowds = {}
        for name, server in servers.items():
            with world.step(f"connecting: {name}", CONNECTIONS) as advance, server.blamed():
                crowd = Answering(server.port, ["/ws/bench"] * CONNECTIONS, on_open=advance)
                crowds[name] = stack.enter_context(crowd)
            stack.enter_context(_answering(name, crowd))
        with world.step("heartbeats", PERIODS) as advance:
            began = time.monotonic()
            before = {name: (server.cpu(), crowds[name].answered) for name, server in servers.items()}
            for period in range(PERIODS):
                time.sleep(began + PERIOD * (period + 1) - time.monotonic())
                advance()
            for name, server in servers.items():
                seconds = server.cpu() - before[name][0]
                spent[name].append(seconds * 1000 / CONNECTIONS * 60 / (PERIOD * PERIODS) * 1000)
                asked[name] = crowds[name].answered - before[name][1]
    for name, count in asked.items():
        if not PERIODS * CONNECTIONS * 0.8 <= count <= PERIODS * CONNECTIONS * 1.2:
            raise ValueError(f"{name} has asked {count} times, not {PERIODS * CONNECTIONS}")
    unit = "CPU ms a minute, 1,000 connections"
    for name in OURS:
        yield world.result(f"9 heartbeats, {name}", unit, spent, name, (TASK_EACH,), None, (Bound("peer", "<=", 0.25),))


@contextmanager
def _answering(name: str, crowd: Answering) -> Iterator[None]:
    """Let a crowd answer in a thread of its own, from now on.

    Raises:
        RuntimeError: at the end: it could not.
    """
    done = Event()
    errors: list[OSError] = []

    def answer() -> None:
        try:
            while not done.is_set():
                crowd.answer(0.5)
        except OSError as error:
            errors.append(error)

    thread = Thread(target=answer)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    if errors:
        raise RuntimeError(f"{name}: {errors[0]}") from errors[0]
