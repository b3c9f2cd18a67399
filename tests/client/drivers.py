"""The twins behind one synchronous face, so that every scenario is written once and run for both."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Protocol, Self

from shim.client import AsyncClient, Client, Event, Received, State
from shim.client.effects import Counters
from shim.client.errors import ClientError
from shim.core.wire import Position
from tests.client.scripted import DEADLINE


class Driven(Protocol):
    """A client as scenarios see it."""

    events: list[Event]

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def __iter__(self) -> Iterator[Received]: ...
    def open(self) -> Self: ...
    def close(self) -> None: ...
    def receive(self, timeout: float | None = None) -> Received: ...
    def send(self, value: object, *, ack_timeout: float | None = None) -> int: ...
    def until(self, condition: Callable[[Any], bool]) -> None: ...
    @property
    def state(self) -> State: ...
    @property
    def backend(self) -> str | None: ...
    @property
    def connection_id(self) -> str | None: ...
    @property
    def positions(self) -> dict[str, Position]: ...
    @property
    def counters(self) -> Counters: ...
    @property
    def error(self) -> ClientError | None: ...


class SyncDriver(Client):
    """The sync client, and a list of what it told."""

    events: list[Event]

    @classmethod
    def make(cls, *args: Any, **options: Any) -> "SyncDriver":
        events: list[Event] = []
        client = cls(*args, **{"on_event": events.append, "random": lambda: 0.0, **options})
        client.events = events
        return client

    def until(self, condition: Callable[[Any], bool]) -> None:
        self.wait_until(condition, DEADLINE)


class AsyncDriver:
    """The async client on an event loop in a thread, and a list of what it told."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.events: list[Event] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        try:
            self.client = AsyncClient(*args, **{"on_event": self.events.append, "random": lambda: 0.0, **options})
        except BaseException:
            self.stop()
            raise

    @classmethod
    def make(cls, *args: Any, **options: Any) -> "AsyncDriver":
        return cls(*args, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    def run[T](self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.start(coroutine).result(3 * DEADLINE)

    def start[T](self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Received]:
        while True:
            try:
                yield self.run(self.client.__anext__())
            except StopAsyncIteration:
                return

    def open(self) -> Self:
        self.run(self.client.open())
        return self

    def close(self) -> None:
        self.run(self.client.close())

    def receive(self, timeout: float | None = None) -> Received:
        return self.run(self.client.receive(timeout))

    def send(self, value: object, *, ack_timeout: float | None = None) -> int:
        return self.run(self.client.send(value, ack_timeout=ack_timeout))

    def until(self, condition: Callable[[Any], bool]) -> None:
        self.run(self.client.wait_until(condition, DEADLINE))

    def tasks(self) -> set[str]:
        """Names of the tasks that are left in the loop."""

        async def names() -> set[str]:
            current = asyncio.current_task()
            return {task.get_name() for task in asyncio.all_tasks() if task is not current and not task.done()}

        return self.run(names())

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE)
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()


def of_kind[E](client: Driven, kind: type[E]) -> list[E]:
    """The events of one kind, in order."""
    return [event for event in client.events if isinstance(event, kind)]


def values(client: Driven, n: int) -> list[object]:
    """The values of the next messages."""
    return [client.receive(DEADLINE).value for _ in range(n)]
