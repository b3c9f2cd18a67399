"""One run: connections to one server process, of which some take nothing any more.

The others get one stream. Those who stall get a stream each, so that nothing of what waits for one of them is shared
with another: frames that go to many are one piece of memory, however many they wait for.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import batched
from statistics import median
from typing import Final
from urllib.parse import urlencode

from demo.stack import HOST
from shim.bus.asyncio import AsyncBus
from shim.core.history import History
from shim.core.message import Kind
from shim.core.names import Everyone, Group, Topic
from shim.core.protocol import Close
from tests.stalled.listener import PATIENCE, SMALL, Listener, message
from tests.stalled.stack import OneEach, memory

QUIET: Final = 24  # messages before anybody stalls
AHEAD: Final = 4  # messages that the slowest of those who listen may be behind: the stream does not make them slow
KEPT: Final = History(1, 60.0)
FACILITY: Final = "contract"
TOPIC: Final = Topic(FACILITY, Everyone())
AT_ONCE: Final = 50
RUN: Final = 10  # messages in one round trip
SAMPLE: Final = 0.05  # seconds


@dataclass(slots=True)
class Outcome:
    """What was seen at one backend; bytes, and milliseconds from a publish until the last listener had the message.

    Attributes:
        closed: of those who stalled, how many the server closed with 4001, as it told `disconnected`.
        missed: messages that the others did not get, or not in order. lost: who of them was disconnected.
        before, grown: the process's memory, and by how much it was larger at most after some had stalled.
        quiet_ms, stalled_ms, worst_ms: before, while the others take nothing, and at most.
    """

    closed: int
    missed: int
    lost: int
    before: int
    grown: int
    quiet_ms: float
    stalled_ms: float
    worst_ms: float

    def is_right(self, stalled: int, bound: int) -> bool:
        """Whether contract 7.2 holds: so many closed, nobody else hurt, and memory grown by no more than this."""
        return self.closed == stalled and not self.missed and not self.lost and self.grown <= bound


class Stream:
    """Publishes numbered messages, as fast as those who listen take them, and keeps the times."""

    def __init__(self, bus: AsyncBus, first: int, size: int) -> None:
        self.next = first
        self._bus = bus
        self._size = size
        self._last: dict[int, float] = {}

    def took(self, number: int, now: float) -> None:
        """Somebody who listens has got a message."""
        self._last[number] = now

    async def run(self, count: int, listeners: Sequence[Listener]) -> list[float]:
        """So many more; the milliseconds until the last listener had each."""
        published = {}
        for number in range(self.next, self.next + count):
            await self._until(listeners, number - AHEAD)
            published[number] = time.monotonic()
            await self._bus.publish(TOPIC, Kind.TEXT, message(number, self._size).encode(), KEPT)
        self.next += count
        await self._until(listeners, self.next)
        return [(self._last.get(number, began) - began) * 1_000 for number, began in published.items()]

    async def _until(self, listeners: Sequence[Listener], number: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while min((each.next for each in listeners if each.code is None), default=number) < number:
            if time.monotonic() > deadline:
                raise TimeoutError(f"message {number} has not come to everybody")
            await asyncio.sleep(0.002)


async def run(
    stack: OneEach, backend: str, *, connections: int, stalled: int, size: int, count: int, first: int = 0
) -> Outcome:
    """Connect, let some of them stall, and see what it costs.

    Args:
        stack: the servers. backend: whose process is looked at.
        connections: all of them, half raw and half v1. stalled: how many of them stop reading.
        size, count: bytes of a message, and how many are published after that.
        first: the number of the first message; a second run on the same servers begins after those of the first.

    Messages of their own are published to those who stall for as long as the stream goes.
    """
    bus = AsyncBus(stack.redis_url, prefix=stack.env["REALTIME_PREFIX"])
    stream = Stream(bus, first, size)
    everybody = [_listener(backend, number, stalled, stream) for number in range(connections)]
    sleepers, others = everybody[:stalled], everybody[stalled:]
    address = (HOST, stack.ports[backend])
    try:
        door = asyncio.Semaphore(AT_ONCE)

        async def enter(each: Listener) -> None:
            async with door:
                await each.open(address, receive_buffer=SMALL if each in sleeping else None)

        sleeping = set(sleepers)
        await asyncio.gather(*(enter(each) for each in everybody))
        quiet = await stream.run(QUIET, others)
        process = await asyncio.to_thread(stack.process, backend)
        before = memory(process)
        for each in sleepers:
            each.stall()
        most = [before]
        watching = asyncio.create_task(_watch(process, most))
        flood = asyncio.create_task(_flood(bus, stalled, size, count))
        busy = await stream.run(count, others)
        await flood
        watching.cancel()
        return Outcome(
            closed=await asyncio.to_thread(_closed, stack, backend, stalled),
            missed=sum(len(each.wrong) + (stream.next - each.next) for each in others),
            lost=sum(each.code is not None for each in others),
            before=before,
            grown=max(most) - before,
            quiet_ms=round(median(quiet), 1),
            stalled_ms=round(median(busy), 1),
            worst_ms=round(max(busy), 1),
        )
    finally:
        for each in everybody:
            each.close()
        await bus.close()


async def _watch(process: int, most: list[int]) -> None:
    while True:
        most.append(memory(process))
        await asyncio.sleep(SAMPLE)


async def _flood(bus: AsyncBus, stalled: int, size: int, count: int) -> None:
    """So many messages to each of those who stall, each message to one of them alone."""
    topics = [Topic(FACILITY, Group(f"stalled-{number}")) for number in range(stalled)]
    body = b"y" * size
    for _ in range(count):
        for some in batched(topics, RUN):
            await bus.publish_many([(topic, Kind.TEXT, body, KEPT, None) for topic in some])


def _closed(stack: OneEach, backend: str, stalled: int) -> int:
    """How many of those who stall the server has closed with 4001; the last of them may take a few seconds more."""
    deadline = time.monotonic() + PATIENCE
    while True:
        ends = [stack.notes.read(f"{backend}-{number}", "disconnected") for number in range(stalled)]
        if all(ends) or time.monotonic() > deadline:
            return sum([each["code"] for each in end] == [Close.TOO_SLOW] for end in ends)
        time.sleep(SAMPLE)


def _listener(backend: str, number: int, stalled: int, stream: Stream) -> Listener:
    query = {"listen": '[["e",""]]'}
    if number < stalled:
        query = {"listen": json.dumps([["g", f"stalled-{number}"]]), "note": f"{backend}-{number}"}
    took = _nobody if number < stalled else stream.took
    return Listener(f"/ws/{FACILITY}?{urlencode(query)}", v1=bool(number % 2), first=stream.next, took=took)


def _nobody(number: int, now: float) -> None:
    """Whoever stalls is not waited for."""
