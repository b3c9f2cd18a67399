"""One test's realtime: a Redis in memory, a clock that stands still, servers, and what was published."""

import itertools
from asyncio import _get_running_loop  # exported for those who implement event loops
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from unittest import TestCase, TestResult

from django.test.utils import override_settings

from shim.bus.commands import Outgoing
from shim.bus.memory_redis import MemoryRedis, install
from shim.core.cohorts import Cohort
from shim.core.history import History
from shim.core.message import Message
from shim.core.names import Audience
from shim.core.wire import Position
from shim.testing.server import MemoryServer

TICK: Final = 0.1  # seconds between two looks of a server's timer
GUIDE: Final = "docs/how-to/test-your-facility.md"

_numbers = itertools.count(1)
_active: "list[InMemory]" = []


@dataclass(frozen=True, slots=True)
class Published:
    """A message that was published.

    Attributes:
        facility, audience: for whom. message: kind and value. history: what is kept of it.
        position: where it stands in its topic, None without history.
        sender: id of the connection that it was published with as its sender, or None.
    """

    facility: str
    audience: Audience
    message: Message
    history: History
    position: Position | None
    sender: str | None = None

    @property
    def value(self) -> Any:
        """The message's value: a `str`, `bytes`, or what JSON made of it."""
        return self.message.value


class Clock:
    """A clock that somebody else moves.

    Attributes:
        now: seconds since some moment.
    """

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        """The time."""
        return self.now

    def move(self, seconds: float) -> None:
        """Let time pass, for nobody but those who look."""
        self.now = round(self.now + seconds, 6)


class InMemory:
    """Everything realtime happens in this process's memory while it is entered, whatever the settings say.

    Each one begins with nothing: no message, no history, no connection. At its end open connections are closed with
    1001, so that their `disconnected` runs. Time stands still until `advance`.

    Attributes:
        clock: the time of everything in here.
        redis: the Redis that is not there: `redis.stop()` takes it away (contract 7.3), `redis.start()` brings it back.
        outbox: what was published, in order.
        servers: the processes, in the order in which they were started.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        self.redis = MemoryRedis(self.clock)
        self.redis.journal = self._note
        self.outbox: list[Published] = []
        self.servers: list[MemoryServer] = []
        self._url = f"memory://test-{next(_numbers)}"
        self._override = override_settings(REALTIME_REDIS_URL=self._url)
        self._is_settling = False

    def __enter__(self) -> Self:
        install(self._url, self.redis)
        self._override.enable()
        _active.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for server in self.servers:
                for client in server.clients():
                    client.close(1001)
            self.settle()
        finally:
            _active.remove(self)
            self._override.disable()
            install(self._url, None)

    def serve(self, backend: Cohort = "legacy", *, random: Callable[[], float] | None = None) -> MemoryServer:
        """Start one more process of a backend."""
        server = MemoryServer(backend, random=random)
        self.servers.append(server)
        return server

    def server(self, backend: Cohort = "legacy") -> MemoryServer:
        """The first process of a backend, started if there is none."""
        for server in self.servers:
            if server.backend == backend:
                return server
        return self.serve(backend)

    def settle(self) -> None:
        """Let everything happen that is due now: messages arrive, connections end, `disconnected` runs.

        `connect`, `send`, `receive` and the like do it by themselves. In an event loop's thread `disconnected` waits
        for the next call from elsewhere (`aconnect`, `asend`, …, the end of the test), since it may block.
        """
        if self._is_settling:
            return  # a handler is asking: whoever called it goes on when it has returned
        self._is_settling = True
        try:
            while self._go_on():
                pass
        finally:
            self._is_settling = False

    def advance(self, seconds: float) -> None:
        """Let time pass, with all that belongs to it: what expires, heartbeats, moves, drains."""
        until = round(self.clock.now + seconds, 6)
        while self.clock.now < until:
            self.clock.move(min(TICK, until - self.clock.now))
            for server in self.servers:
                server.tick()
            self.settle()

    def _go_on(self) -> bool:
        if any(server.work() for server in self.servers):
            return True
        return _get_running_loop() is None and any(server.farewell() for server in self.servers)

    def _note(self, outgoing: Outgoing, position: Position | None) -> None:
        topic, kind, body, history, sender = outgoing
        message = Message.from_body(kind, body)
        self.outbox.append(Published(topic.facility, topic.audience, message, history, position, sender))


def active() -> InMemory:
    """The innermost `InMemory` that is entered.

    Raises:
        RuntimeError: none is.
    """
    if not _active:
        raise RuntimeError(
            "this test is not in memory: put RealtimeTestMixin in front of its TestCase, or use `with InMemory():` "
            f"in a fixture ({GUIDE})"
        )
    return _active[-1]


if TYPE_CHECKING:
    _Case = TestCase
else:
    _Case = object


class RealtimeTestMixin(_Case):
    """In front of any TestCase: each test, with its `setUp` and `tearDown`, is in memory.

    ```python
    class CallsTests(RealtimeTestMixin, TestCase): ...
    ```

    Attributes:
        realtime: the test's `InMemory`.
    """

    realtime: InMemory

    def run(self, result: TestResult | None = None) -> TestResult | None:
        """Run the test (unittest)."""
        with InMemory() as self.realtime:
            return super().run(result)

    def debug(self) -> None:
        """Run the test without collecting its result (unittest)."""
        with InMemory() as self.realtime:
            super().debug()
