"""The buses on a Redis in this process's memory, and the links to it: `REALTIME_REDIS_URL = "memory://"`.

Everything but the socket is the real thing; the Redis itself is `shim.bus.memory_redis`.
"""

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from math import inf
from time import monotonic
from typing import NoReturn

from redis.exceptions import ConnectionError as LinkLost
from redis.exceptions import RedisError

from shim.bus.asyncio import AsyncBus
from shim.bus.commands import Command, Outgoing
from shim.bus.memory_redis import NOTHING, memory_redis
from shim.bus.sync import SyncBus
from shim.core.history import History
from shim.core.message import Kind
from shim.core.names import Topic
from shim.core.wire import Position


class MemoryBus(SyncBus):
    """A `SyncBus` on a `MemoryRedis`, whose journal it keeps."""

    def publish(
        self, topic: Topic, kind: Kind, body: bytes, history: History, origin: str | None = None
    ) -> Position | None:
        """Like `SyncBus.publish`."""
        position = super().publish(topic, kind, body, history, origin)
        _note(self.endpoint.url, [(topic, kind, body, history, origin)], [position])
        return position

    def publish_many(self, messages: Iterable[Outgoing]) -> list[Position | None]:
        """Like `SyncBus.publish_many`."""
        outgoing = list(messages)
        positions = super().publish_many(outgoing)
        _note(self.endpoint.url, outgoing, positions)
        return positions


class AsyncMemoryBus(AsyncBus):
    """An `AsyncBus` on a `MemoryRedis`, whose journal it keeps."""

    async def publish(
        self, topic: Topic, kind: Kind, body: bytes, history: History, origin: str | None = None
    ) -> Position | None:
        """Like `AsyncBus.publish`."""
        position = await super().publish(topic, kind, body, history, origin)
        _note(self.endpoint.url, [(topic, kind, body, history, origin)], [position])
        return position

    async def publish_many(self, messages: Iterable[Outgoing]) -> list[Position | None]:
        """Like `AsyncBus.publish_many`."""
        outgoing = list(messages)
        positions = await super().publish_many(outgoing)
        _note(self.endpoint.url, outgoing, positions)
        return positions


def _note(url: str, messages: Sequence[Outgoing], positions: Sequence[Position | None]) -> None:
    journal = memory_redis(url).journal
    if journal is not None:
        for outgoing, position in zip(messages, positions, strict=True):
            journal(outgoing, position)


class SyncMemoryLink:
    """What `shim.bus.link_sync.Link` is, without a socket."""

    generation = 0
    used_at = 0.0
    deadline = 0.0  # nothing here takes time
    waits_since = inf  # and nobody has to be asked whether he is there

    def __init__(self, url: str, timeout: float) -> None:
        """Connect.

        Raises:
            RedisError: the Redis is away.
        """
        self.timeout = timeout
        self._arrival = threading.Event()
        self._line = memory_redis(url).line(self._arrival.set)

    @property
    def is_connected(self) -> bool:
        """Whether it has not ended yet."""
        return self._line.ended is None

    def is_usable(self) -> bool:
        """See `Link`."""
        return self.is_connected

    def ask(self, commands: Sequence[Command]) -> list[object]:
        """See `Link`."""
        self._line.say(commands)
        return [self._line.hear() for _ in commands]

    def send(self, commands: Sequence[Command]) -> None:
        """See `Link`."""
        self._line.say(commands)

    def hear(self) -> object:
        """See `Link`."""
        while True:
            self._arrival.clear()
            if (said := self._line.hear()) is not NOTHING:
                return said
            self._arrival.wait(self.timeout)

    def be_patient(self) -> None:
        """See `Link`."""

    def cut(self, reason: RedisError) -> None:
        """See `Link`."""
        self._line.end(str(reason))

    def relax(self) -> None:
        """See `Link`."""

    def disconnect(self) -> None:
        """See `Link`."""
        self._line.end()


class AsyncMemoryLink:
    """What `shim.bus.link_asyncio.Link` is, without a socket."""

    generation = 0
    used_at = 0.0
    unsent = 0

    def __init__(self, url: str) -> None:
        """Connect.

        Raises:
            RedisError: the Redis is away.
        """
        self._loop = asyncio.get_running_loop()
        self._arrival = asyncio.Event()
        self.heard_at = monotonic()
        self._line = memory_redis(url).line(self._wake)

    @property
    def ended(self) -> Exception | None:
        """Why it has ended, or None."""
        return self._line.ended

    async def is_usable(self) -> bool:
        """See `Link`."""
        return self.ended is None

    async def ask(self, commands: Sequence[Command]) -> list[object]:
        """See `Link`."""
        self._line.say(commands)
        return [self._line.hear() for _ in commands]

    def post(self, commands: Sequence[Command]) -> None:
        """See `Link`."""
        self._line.say(commands)

    async def hear(self) -> object:
        """See `Link`."""
        while True:
            self._arrival.clear()
            if (said := self._line.hear()) is not NOTHING:
                return said
            await self._arrival.wait()

    async def listen(self, listener: Callable[[object], None], crowd: int) -> NoReturn:
        """See `Link`."""
        while True:
            for _ in range(crowd):
                listener(await self.hear())
            await asyncio.sleep(0)

    def cut(self, reason: Exception | None = None) -> None:
        """See `Link`."""
        self._line.end(str(reason or LinkLost("the connection has ended")))

    def _wake(self) -> None:
        self.heard_at = monotonic()
        try:
            self._loop.call_soon_threadsafe(self._arrival.set)
        except RuntimeError:  # the loop has ended, and its tasks with it
            self._line.end()
