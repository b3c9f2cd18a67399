"""A real Valkey (and the Redis of REDIS_URL_TEST, if given), and both drivers behind one face."""

import asyncio
import os
import threading
import uuid
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any

import pytest
import redis

from shim.bus.asyncio import AsyncBus, AsyncSubscription
from shim.bus.commands import Outgoing
from shim.bus.embedded import EmbeddedValkey
from shim.bus.sync import SyncBus, SyncSubscription
from shim.core.errors import RealtimeUnavailable
from shim.core.history import History, ReadRequest, ReadResult
from shim.core.kept import Save
from shim.core.message import Kind
from shim.core.names import Topic
from shim.core.wire import Position
from tests.bus.waiting import until

EXTERNAL = os.environ.get("REDIS_URL_TEST")


class BusFace:
    """A bus of either kind, called from a test."""

    def __init__(self, driver: "Driver", bus: SyncBus | AsyncBus) -> None:
        self.driver = driver
        self.bus = bus

    def publish(
        self, topic: Topic, kind: Kind, body: bytes, history: History, origin: str | None = None
    ) -> Position | None:
        position: Position | None = self._call("publish", topic, kind, body, history, origin)
        return position

    def publish_many(self, messages: Iterable[Outgoing]) -> list[Position | None]:
        positions: list[Position | None] = self._call("publish_many", messages)
        return positions

    def read_many(self, requests: Iterable[ReadRequest]) -> list[ReadResult]:
        results: list[ReadResult] = self._call("read_many", requests)
        return results

    def read(self, request: ReadRequest) -> ReadResult:
        (result,) = self.read_many([request])
        return result

    def join(self, requests: Iterable[ReadRequest], state: str | None) -> tuple[list[ReadResult], bytes | None]:
        joined: tuple[list[ReadResult], bytes | None] = self._call("join", requests, state)
        return joined

    def save(self, saves: Iterable[Save]) -> None:
        self._call("save", saves)

    def control(self, message: dict[str, object]) -> None:
        self._call("control", message)

    def execute(self, *command: str | bytes | int) -> Any:
        return self._call("execute", *command)

    def ping(self) -> None:
        self._call("ping")

    def close(self) -> None:
        self._call("close")

    def _call(self, method: str, *args: object) -> Any:
        found = getattr(self.bus, method)(*args)
        return self.driver.wait_for(found) if asyncio.iscoroutine(found) else found


class Heard:
    """What a subscription has told, in order."""

    def __init__(self) -> None:
        self.news: list[tuple[str, Any]] = []

    @property
    def messages(self) -> list[bytes]:
        return [what for kind, what in self.news if kind == "message"]

    @property
    def ups(self) -> int:
        return [kind for kind, _ in self.news].count("up")

    @property
    def downs(self) -> list[RealtimeUnavailable]:
        return [what for kind, what in self.news if kind == "down"]

    def forget_confirmations(self) -> None:
        self.news[:] = [each for each in self.news if each[0] != "subscribed"]

    def confirmed(self, channel: str) -> int:
        return self.news.count(("subscribed", channel))


class SubscriptionFace:
    """A subscription of either kind that wants `channels` again whenever it is up."""

    def __init__(self, driver: "Driver", url: str, channels: Sequence[str], **options: Any) -> None:
        self.heard = Heard()
        self.channels = channels
        self.driver = driver
        callbacks: dict[str, Callable[..., None]] = {
            "on_up": self._up,
            "on_message": lambda channel, data: self.heard.news.append(("message", data)),
            "on_subscribed": lambda channel: self.heard.news.append(("subscribed", channel)),
            "on_down": lambda error: self.heard.news.append(("down", error)),
        }
        settings = {"timeout": 2.0, "name": "test", **callbacks, **options}
        self.subscription: SyncSubscription | AsyncSubscription = (
            SyncSubscription(url, **settings) if driver.kind == "sync" else AsyncSubscription(url, **settings)
        )

    def _up(self) -> None:
        self.heard.news.append(("up", None))
        self.subscription.subscribe(self.channels)

    def start(self) -> None:
        self.driver.run(self.subscription.start)

    def start_and_wait(self) -> None:
        self.start()
        until(lambda: all(self.heard.confirmed(channel) for channel in self.channels))

    def subscribe(self, channels: Sequence[str]) -> None:
        self.driver.run(lambda: self.subscription.subscribe(channels))

    def unsubscribe(self, channels: Sequence[str]) -> None:
        self.driver.run(lambda: self.subscription.unsubscribe(channels))

    @property
    def connected(self) -> bool:
        return self.subscription.connected

    def close(self) -> None:
        if isinstance(self.subscription, SyncSubscription):
            self.subscription.close()
        else:
            self.driver.wait_for(self.subscription.close())


class Driver:
    """Makes buses and subscriptions of one kind, and closes them."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._faces: list[BusFace | SubscriptionFace] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def bus(self, url: str, *, prefix: str = "rt", **options: Any) -> BusFace:
        kind = SyncBus if self.kind == "sync" else AsyncBus
        face = BusFace(self, kind(url, prefix=prefix, **options))
        self._faces.append(face)
        return face

    def subscription(self, url: str, channels: Sequence[str] = (), **options: Any) -> SubscriptionFace:
        face = SubscriptionFace(self, url, channels, **options)
        self._faces.append(face)
        return face

    def wait_for[T](self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    def run(self, function: Callable[[], None]) -> None:
        """Call a plain function where the driver's callbacks are called."""
        if self.kind == "sync":
            function()
            return

        async def call() -> None:
            function()

        self.wait_for(call())

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            made = self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=made.run_forever, daemon=True)
            self._thread.start()
        return self._loop

    def close(self) -> None:
        for face in self._faces:
            face.close()
        if self._loop is not None and self._thread is not None:
            self.wait_for(self._loop.shutdown_asyncgens())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop.close()


@pytest.fixture(scope="session")
def embedded() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as valkey:
        yield valkey


@pytest.fixture(params=["embedded", *(["external"] if EXTERNAL else [])])
def url(request: pytest.FixtureRequest, embedded: EmbeddedValkey) -> str:
    """A Redis that other tests use too: stay under `prefix`."""
    return EXTERNAL if request.param == "external" and EXTERNAL else embedded.url


@pytest.fixture
def server() -> Iterator[EmbeddedValkey]:
    """A Valkey of the test's own, to be mistreated."""
    with EmbeddedValkey() as valkey:
        yield valkey


@pytest.fixture
def prefix() -> str:
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture(params=["sync", "async"])
def driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    made = Driver(request.param)
    yield made
    made.close()


@pytest.fixture
def bus(driver: Driver, url: str, prefix: str) -> BusFace:
    return driver.bus(url, prefix=prefix)


@pytest.fixture
def client(url: str) -> Iterator[Any]:
    with redis.Redis.from_url(url) as made:
        yield made
