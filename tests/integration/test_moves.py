"""Make-before-break over the real servers: v1 clients are moved six times under traffic, and nobody notices."""

# contract 8.3, 3.1, 3.2, 6.1

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from demo.browser import Browser
from demo.stack import CHANNELS, LEGACY, Stack
from shim.bus.asyncio import AsyncBus
from shim.client import AsyncClient, Event, Lost, Moved, MoveFailed
from shim.core.cohorts import Snapshot, Subject, cohort
from shim.core.history import History
from shim.core.message import Kind
from shim.core.names import Everyone, Topic
from tests.integration.served import PATIENCE

pytestmark = pytest.mark.servers

LISTENERS = 18
TALKERS = 12
FLAG = "realtime_channels"
FLIPS = (40, 100, 0, 60, 100, 0)  # percent
PAUSE = 0.02  # seconds between two messages


class Listener:
    """A client of the lobby, with all that it was told and given."""

    facility = "lobby"

    def __init__(self, stack: Stack, number: int) -> None:
        self.name = f"{self.facility}-{number}"  # cohorts go by it
        self.endpoint = f"{stack.http[LEGACY if number % 2 else CHANNELS]}/realtime/endpoint"
        self.events: list[Event] = []
        self.got: list[object] = []
        self.client = AsyncClient(
            self.endpoint,
            facility=self.facility,
            cookies={"realtime_anonymous": self.name},
            on_event=self.events.append,
        )

    def is_home(self, percent: int) -> bool:
        """Whether it is where it belongs (contract 8.1)."""
        flag = Snapshot(FLAG, exists=True, everyone=True if percent == 100 else None, percent=percent * 1_000)
        return self.client.backend == cohort(flag, Subject(anonymous=self.name))

    async def live(self) -> None:
        async for message in self.client:
            self.got.append(message.value)


class Talker(Listener):
    """A client of the echo: sends, awaits each ack, and gets each message back for itself alone."""

    facility = "echo"

    def __init__(self, stack: Stack, number: int) -> None:
        super().__init__(stack, number)
        self.sent: list[object] = []

    async def talk(self, is_over: asyncio.Event) -> None:
        while not is_over.is_set():
            self.sent.append(f"{self.name} {len(self.sent)}")
            await self.client.send(self.sent[-1], ack_timeout=PATIENCE)
            await asyncio.sleep(PAUSE)


@pytest.fixture
def turn(stack: Stack) -> Iterator[Callable[[int], object]]:
    """Turns the flag as an operator does, and back at the end."""
    browser = Browser(stack.ports[LEGACY])

    def turn(percent: int) -> object:
        return browser.post("/flag/set", percent=percent)

    turn(0)
    yield turn
    turn(0)


async def publish(stack: Stack, is_over: asyncio.Event) -> list[object]:
    bus = AsyncBus(stack.redis_url, prefix=stack.env["REALTIME_PREFIX"])
    published: list[object] = []
    try:
        while not is_over.is_set():
            published.append(f"news {len(published)}")
            await bus.publish(Topic("lobby", Everyone()), Kind.TEXT, str(published[-1]).encode(), History(100, 60))
            await asyncio.sleep(PAUSE)
    finally:
        await bus.close()
    return published


def test_six_flips_under_traffic(stack: Stack, turn: Callable[[int], object]) -> None:
    async def scenario() -> None:
        listeners = [Listener(stack, number) for number in range(LISTENERS)]
        talkers = [Talker(stack, number) for number in range(TALKERS)]
        everybody = [*listeners, *talkers]
        await asyncio.gather(*(each.client.open() for each in everybody))
        try:
            is_over = asyncio.Event()
            lives = [asyncio.create_task(each.live()) for each in everybody]
            talks = [asyncio.create_task(each.talk(is_over)) for each in talkers]
            publishing = asyncio.create_task(publish(stack, is_over))
            for percent in FLIPS:
                await asyncio.to_thread(turn, percent)
                for each in everybody:
                    await each.client.wait_until(lambda _, each=each, percent=percent: each.is_home(percent), PATIENCE)  # type: ignore[misc]
            is_over.set()
            await asyncio.gather(*talks)  # raises what a send has raised
            published = await publishing
            for each in listeners:
                await each.client.wait_until(lambda _, each=each: each.got[-1:] == published[-1:], PATIENCE)  # type: ignore[misc]
            for each in talkers:
                await each.client.wait_until(lambda _, each=each: each.got[-1:] == each.sent[-1:], PATIENCE)  # type: ignore[misc]
        finally:
            await asyncio.gather(*(each.client.close() for each in everybody))
        await asyncio.gather(*lives)
        for each in everybody:
            kinds = [type(event) for event in each.events]
            assert Lost not in kinds, each.events  # it was connected all the time
            assert MoveFailed not in kinds, each.events
            assert kinds.count(Moved) == each.client.counters.moved >= 4
            counters = each.client.counters
            assert (counters.losses, counters.protocol_errors) == (1, 0)  # the one is our own close
            assert (counters.duplicates_dropped, counters.holes, counters.gaps) == (0, 0, 0)
        for each in listeners:
            assert each.got == published[len(published) - len(each.got) :], "lost, doubled or out of order"
            assert len(each.got) >= len(published) - 1  # the first may have been published before it was there
        for each in talkers:
            assert each.got == each.sent

    asyncio.run(scenario())


@contextmanager
def stubborn(stack: Stack) -> Iterator[ClientConnection]:
    """A v1 client that passes `move` over; live on legacy."""
    headers = {"Cookie": "realtime_anonymous=stubborn"}
    url = f"{stack.ws[LEGACY]}lobby"
    v1 = [Subprotocol("realtime.v1")]
    with connect(url, additional_headers=headers, subprotocols=v1, compression=None) as websocket:
        websocket.send('{"op":"hello"}')
        hear(websocket, "ready")
        yield websocket


def hear(websocket: ClientConnection, op: str) -> dict[str, object]:
    """The next frame of that kind."""
    deadline = time.monotonic() + PATIENCE
    while True:
        frame: dict[str, object] = json.loads(websocket.recv(timeout=deadline - time.monotonic()))
        if frame["op"] == op:
            return frame


def test_who_passes_it_over_is_closed_when_the_time_is_over(stack: Stack, turn: Callable[[int], object]) -> None:
    with stubborn(stack) as websocket:
        turn(100)
        told = hear(websocket, "move")
        began = time.monotonic()
        assert told == {"op": "move", "backend": CHANNELS, "url": f"{stack.ws[CHANNELS]}lobby", "within_ms": 4_000}
        with pytest.raises(ConnectionClosed) as closed:
            hear(websocket, "never")
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        assert 3.5 < time.monotonic() - began < 8.0


def test_who_was_told_stays_when_the_flag_is_turned_back(stack: Stack, turn: Callable[[int], object]) -> None:
    with stubborn(stack) as websocket:
        turn(100)
        hear(websocket, "move")
        turn(0)
        with pytest.raises(TimeoutError):
            websocket.recv(timeout=5.5)  # longer than it had
        turn(100)
        hear(websocket, "move")  # and counts as any other again
