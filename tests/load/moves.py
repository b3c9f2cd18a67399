"""Many live connections are moved from one backend to the other, while others come in (contract 8.5)."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import quantiles
from typing import Final

from demo.stack import CHANNELS, LEGACY, ROOT
from tests.load.people import PATIENCE, Person, arrived
from tests.load.stack import LoadStack, busy_seconds

PAUSE: Final = 0.05  # seconds between two visitors


@dataclass(frozen=True, slots=True)
class Visit:
    """Somebody new. Seconds of the monotonic clock, and milliseconds from the connection to `ready`."""

    at: float
    backend: str
    ms: float
    status: int


@dataclass(frozen=True, slots=True)
class Run:
    """What was seen.

    Attributes:
        quiet, moving: visits before the flip, with all people connected, and during the moves.
        people: those who were moved. began, ended: when the flag was turned, and the last one had moved.
        hurried: when they were told to hurry, None if they were not.
    """

    quiet: list[Visit]
    moving: list[Visit]
    people: list[Person]
    began: float
    ended: float
    hurried: float | None


@contextmanager
def visitors(stack: LoadStack, found: list[Visit]) -> Iterator[None]:
    """Let somebody new come to either backend in turn; `found` has them all when it is over."""
    urls = [f"{stack.ws[name]}lobby" for name in (LEGACY, CHANNELS)]
    backends = {str(port): name for name, port in stack.ports.items()}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.load.visitor", str(PAUSE), *urls],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield
        finally:
            said, _ = process.communicate(timeout=PATIENCE)  # ends its input, too
    for line in said.splitlines():
        at, port, ms, status = line.split()
        found.append(Visit(float(at), backends[port], float(ms), int(status)))


async def cost(stack: LoadStack, people: int, *, to: str = CHANNELS) -> tuple[float, float]:
    """What a move costs here in CPU-seconds, clients and servers together, and the share that is busy anyway.

    All of a move falls on this one machine: coming in at the backend `to`, and leaving the other one.
    """
    cpus = os.cpu_count() or 1
    busy, began = busy_seconds(), time.monotonic()
    await asyncio.sleep(2.0)
    share = (busy_seconds() - busy) / (time.monotonic() - began) / cpus
    other = LEGACY if to == CHANNELS else CHANNELS
    for name in (to, other):
        await arrived([f"first-{n}" for n in range(20)], f"{stack.ws[name]}lobby")  # whatever is done once
    leaving = await arrived([f"leaving-{n}" for n in range(people)], f"{stack.ws[other]}lobby")
    used = stack.cpu_seconds() + time.process_time()
    found = await arrived([f"cost-{n}" for n in range(people)], f"{stack.ws[to]}lobby")
    for each in leaving:
        each.close()
    await asyncio.sleep(0.5)  # until the server is done with them
    used = stack.cpu_seconds() + time.process_time() - used
    for each in found:
        each.close()
    return used / people, min(share, 0.9)


async def run(
    stack: LoadStack, people: int, *, quiet: float, patience: float, hurry: bool = False, to: str = CHANNELS
) -> Run:
    """Connect people to one backend, wait a while, flip, and wait until all have moved.

    Args:
        quiet, patience: seconds before the flip, and for all to move. hurry: tell them to when some have moved.
        to: the backend that they move to.
    """
    hurried = None
    if to == LEGACY:
        await asyncio.to_thread(stack.turn, 100)
        await asyncio.sleep(1.0)  # until every process knows it (contract 8.2)
    crowd = await arrived(
        [f"held-{n}" for n in range(people)], f"{stack.ws[LEGACY if to == CHANNELS else CHANNELS]}lobby"
    )
    found: list[Visit] = []
    try:
        with visitors(stack, found):
            await asyncio.sleep(1.0)  # until the visitors' program runs
            ready = time.monotonic()
            await asyncio.sleep(quiet)
            began = time.monotonic()
            await asyncio.to_thread(stack.turn, 100 if to == CHANNELS else 0)
            if hurry:
                await _until(lambda: any(each.moved for each in crowd), patience, "nobody has moved")
                hurried = time.monotonic()
                await asyncio.to_thread(stack.hurry)
            await _until(lambda: all(each.backend == to or each.ends for each in crowd), patience, "some stayed")
            ended = time.monotonic()
    finally:
        for each in crowd:
            each.close()
    return Run(
        [visit for visit in found if ready <= visit.at < began],
        [visit for visit in found if began <= visit.at < ended],
        crowd,
        began,
        ended,
        hurried,
    )


async def _until(condition: Callable[[], bool], patience: float, what: str) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        await asyncio.sleep(0.05)


def percentile(visits: Sequence[Visit], percent: int) -> float:
    """Of the milliseconds that they took."""
    return quantiles([visit.ms for visit in visits], n=100)[percent - 1]


def most_within(moments: list[float], seconds: float) -> int:
    """The most of them in any so many seconds."""
    ordered = sorted(moments)
    most = first = 0
    for last, moment in enumerate(ordered):
        while ordered[first] <= moment - seconds:
            first += 1
        most = max(most, last - first + 1)
    return most
