"""One connection on the server's side: what `_Visit` is in `legacy_ws4redis/application.py` and its twin."""

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from inspect import isawaitable
from typing import Any, Protocol

from asgiref.sync import async_to_sync
from django.core.exceptions import PermissionDenied

from shim.conf import conf
from shim.core.connection import Connection as CoreConnection
from shim.core.connection import Effect, End, Handle, Join, Ping
from shim.core.errors import PublishingClosed, RealtimeUnavailable
from shim.core.history import ReadResult
from shim.core.message import Message
from shim.core.node import Node
from shim.core.protocol import Close, frame_limit
from shim.core.wire import Position
from shim.facility import Facility
from shim.handlers import called, log_failure, settled
from shim.testing.client import MemoryClient
from shim.visitor import Connection


class Server(Protocol):
    """What a visit asks of its server."""

    node: Node
    clock: Callable[[], float]
    failures: deque[Exception]

    def accepted(self, core: CoreConnection) -> list[Effect]:
        """The handshake reply is on its way."""

    def join(self, core: CoreConnection, resume: Mapping[str, Position], past: Iterable[ReadResult] | None) -> None:
        """Hand the past over, read now if it was not before.

        Raises:
            RealtimeUnavailable: Redis is away.
        """

    def keep(self, core: CoreConnection) -> None:
        """A connection's state has changed, and is to be saved."""

    def ended(self, visit: "Visit") -> None:
        """Either side has ended a connection."""

    def pinged(self, visit: "Visit") -> None:
        """A client was sent a v1 `ping`, and will answer."""


class Visit:
    """One connection on the server's side."""

    core: CoreConnection

    def __init__(self, server: Server, found: Facility, visitor: Connection, max_backlog: int) -> None:
        self.client = MemoryClient(
            visitor.id,
            visitor.protocol,
            said=self.received,
            pinged=lambda: server.pinged(self),
            ended=lambda: server.ended(self),
            clock=server.clock,
            max_backlog=max_backlog,
        )
        self._server = server
        self._facility = found
        self._visitor = visitor
        self._past: Iterable[ReadResult] | None = None

    def begin(self, past: Iterable[ReadResult] | None) -> None:
        """The handshake is answered."""
        self._past = past
        self._visitor.open(self.client.sink.send, self._close, lambda: self._server.keep(self.core))
        self._perform(self._server.accepted(self.core))

    def received(self, data: str | bytes) -> None:
        """A message has come from the client."""
        sink = self.client.sink
        if sink.close_code is not None:
            return
        sink.heard()
        limit = frame_limit(conf().max_message)
        if len(data if isinstance(data, bytes) else data.encode()) > limit:
            sink.close(Close.TOO_BIG, f"over {limit} bytes")
            return
        self._perform(self.core.received(data, self._server.clock()))

    def disconnected(self, code: int) -> None:
        """Tell the facility."""
        try:
            run(self._facility.disconnected, self._visitor, code)
        except Exception as error:  # noqa: BLE001  # the connection is gone already: all that is left is to say so
            self._server.failures.append(error)
            log_failure("disconnected", error, self.core, self._visitor, self._server.node)

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Handle(message, id):
                    self._handle(message, id)
                case Join(resume):
                    self._join(resume)
                case Ping():
                    self.client.sink.ping()
                case End(code, reason):
                    self.client.sink.close(code, reason)

    def _handle(self, message: Message, id: int | str | None) -> None:
        error: Exception | None = None
        try:
            run(self._facility.receive, self._visitor, message)
        except Exception as raised:  # noqa: BLE001  # whatever it is, it is this connection's alone (contract 6.2)
            error = raised
        effects = settled(error, id, self.core, self._visitor, self._server.node, self._server.clock())
        if error is not None and not isinstance(error, (PermissionDenied, PublishingClosed)):
            self._server.failures.append(error)
        self._perform(effects)

    def _join(self, resume: Mapping[str, Position]) -> None:
        past, self._past = self._past, None
        try:
            self._server.join(self.core, resume, past)
        except RealtimeUnavailable:
            self._close(Close.OVERLOADED, "messages cannot be had just now")

    def _close(self, code: int, reason: str) -> None:
        self._perform(self.core.close(code, reason))


def run(function: Callable[..., Any], *args: Any) -> Any:
    """Call a facility's method, `def` or `async def`, in this thread: a test's transaction belongs to it.

    What a coroutine does with `sync_to_async` (the async ORM) comes back to this thread too.
    """
    result = called(function, args)
    return async_to_sync(_awaited)(result) if isawaitable(result) else result


async def _awaited[T](awaitable: Awaitable[T]) -> T:
    return await awaitable
