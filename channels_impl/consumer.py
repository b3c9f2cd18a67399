"""The consumer: one instance serves one connection, from the handshake to `disconnected`.

A connection's life is one task's: refuse or enter, then read, feed, perform until it ends.
`legacy_ws4redis/application.py` is its twin.
"""

import asyncio
import logging
import random
import time
from asyncio import _get_running_loop  # exported for those who implement event loops
from collections.abc import Callable, Iterable, Mapping, Sequence
from sys import intern
from typing import Any, cast

from asgiref.typing import ASGIReceiveCallable, ASGISendCallable, HTTPScope, Scope, WebSocketScope
from channels.consumer import AsyncConsumer

from channels_impl.backend import ChannelsBackend
from channels_impl.line import Line, line_of
from channels_impl.outbox import Outbox
from channels_impl.process import Process, process
from shim.conf import conf
from shim.core.connection import Connection as CoreConnection
from shim.core.connection import Effect, End, Handle, Join, Ping
from shim.core.errors import RealtimeUnavailable
from shim.core.history import ReadResult
from shim.core.message import Message
from shim.core.node import Refusal
from shim.core.protocol import Close, Frame, Protocol
from shim.core.wire import Position
from shim.door import Handshake, connection_of, crowded, identified, look, refusal_of
from shim.doorway import Crowded, doorway
from shim.facility import Facility, topics_of
from shim.handlers import acall, acall_at_door, log_failure, settled
from shim.routing import reply_to
from shim.visitor import Connection

logger = logging.getLogger("realtime")


class RealtimeConsumer(AsyncConsumer):
    """Serves the WebSockets under `REALTIME_WS_PATH`; use `RealtimeConsumer.as_asgi()`.

    It has its own loop instead of `AsyncConsumer`'s, which wakes two tasks for each frame and forgets `disconnected`
    when a handler raises or is slow (channels #1119), and it has no channel layer: the hub sends to it directly.
    """

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Serve one connection (ASGI)."""
        connect = await receive()
        if connect["type"] != "websocket.connect":
            return  # the client has left already
        served = await process()
        with served.visit():
            visit = await _entered(served, handshake_of(cast("WebSocketScope", scope)), line_of(scope), receive, send)
            if isinstance(visit, Refusal):
                await _refuse(visit, send)
            else:
                await visit.serve()


def handshake_of(scope: HTTPScope | WebSocketScope) -> Handshake:
    """The handshake in an ASGI scope."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = intern(raw_name.decode("latin-1").lower()), raw_value.decode("latin-1")
        joint = "; " if name == "cookie" else ","
        headers[name] = f"{headers[name]}{joint}{value}" if name in headers else value
    secure = scope.get("scheme") in ("wss", "https")
    client = scope.get("client")
    return Handshake(
        scope["path"], scope["query_string"].decode("latin-1"), headers, secure, client[0] if client else ""
    )


async def _refuse(refusal: Refusal, send: ASGISendCallable) -> None:
    body = refusal.reason.encode()
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    headers += refusal.headers()
    try:
        encoded = [(name.encode(), value.encode()) for name, value in headers]
        await send({"type": "websocket.http.response.start", "status": refusal.status, "headers": encoded})
        await send({"type": "websocket.http.response.body", "body": body, "more_body": False})
    except OSError:
        logger.debug("a client left before it was refused")


async def _entered(
    served: Process, handshake: Handshake, line: Line | None, receive: ASGIReceiveCallable, send: ASGISendCallable
) -> "_Visit | Refusal":
    """Everything up to acceptance, in the order of contract 1: what costs nothing first."""
    settings = conf()
    found = look(handshake, served.node, settings, time.monotonic())
    if isinstance(found, Refusal):
        return found
    try:
        visitor: Connection | Refusal = await doorway.aask(
            identified, handshake, found, ChannelsBackend.cohort, settings
        )
    except Crowded:
        return crowded(served.node)
    if isinstance(visitor, Refusal):
        return visitor
    core = None
    try:
        visitor.audiences = tuple(await acall_at_door(found.audiences, visitor))
        confirmed = asyncio.Event()
        sink = _Sink(send, line, settings.max_backlog, confirmed.set)
        core = connection_of(
            visitor,
            topics_of(visitor, visitor.audiences),
            sink,
            handshake=handshake,
            node=served.node,
            conf=settings,
            pings=line is not None,
            now=time.monotonic(),
            random=random.random(),
        )
        reply = reply_to(handshake, visitor, served.node, settings)
        quickly = reply.tally is not None and reply.is_quick(await served.bus.execute(*reply.tally))
        await served.subscribe(core, confirmed)
        # A raw client counts on what is published as soon as it sees the handshake's end, and of the past it gets one
        # message alone: so its past is read before that (contract 2.1). A v1 client waits for `ready`.
        past = await served.read_past(core, {}) if core.protocol is Protocol.RAW else None
    except BaseException as error:
        if core is not None:
            served.leave(core, Close.ABNORMAL)
        if isinstance(error, Exception):
            return refusal_of(error, visitor, served.node)
        raise
    if line is not None:
        line.take_over()
    try:
        headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in reply.headers]
        await send({"type": "websocket.accept", "subprotocol": visitor.subprotocol, "headers": headers})
    except BaseException:  # nothing can be refused any more, and a fault of the server's is not the facility's
        served.leave(core, Close.ABNORMAL)
        raise
    return _Visit(served, found, visitor, core, sink, past, quickly, receive)


class _Sink:
    """`shim.core.member.Sink` on an ASGI send, and on the line below where the server offers it."""

    def __init__(
        self, send: ASGISendCallable, line: Line | None, max_backlog: int, confirmed: Callable[[], None]
    ) -> None:
        self._confirmed: Callable[[], None] | None = confirmed  # once: it is not kept for the connection's life
        self.close_code: int | None = None
        self.outbox = Outbox(send, max_backlog, self._too_slow, line)
        self._line = line
        self._last_heard = time.monotonic()

    @property
    def last_heard(self) -> float:
        return self._last_heard if self._line is None else self._line.last_heard

    def heard(self) -> None:
        """A message came."""
        self._last_heard = time.monotonic()

    def send(self, frame: Frame) -> None:
        self.outbox.put(frame)

    def send_batch(self, frames: Sequence[Frame]) -> None:
        self.outbox.put_batch(frames)

    def ping(self) -> None:
        if self._line is not None:
            self._line.ping()

    def close(self, code: int, reason: str) -> None:
        if self.close_code is None:
            self.close_code = code
        self.outbox.close(code, reason)

    def subscribed(self) -> None:
        if self._confirmed is not None:
            self._confirmed()
            self._confirmed = None

    def end(self) -> None:
        """Nothing more will be sent; a client that has not taken the close frame by now is cut off."""
        self.outbox.stop()
        if self.outbox.is_stalled and self._line is not None:
            self._line.cut()

    def _too_slow(self) -> None:
        if self.close_code is None:
            self.close_code = Close.TOO_SLOW
        self.outbox.close(Close.TOO_SLOW, f"{self.outbox.backlog} bytes wait", drop=True)


class _Visit:
    """One accepted connection, served by the task that awaits `serve`."""

    def __init__(
        self,
        served: Process,
        found: Facility,
        visitor: Connection,
        core: CoreConnection,
        sink: _Sink,
        past: Iterable[ReadResult] | None,
        quickly: bool,
        receive: ASGIReceiveCallable,
    ) -> None:
        self._process = served
        self._facility = found
        self._visitor = visitor
        self._core = core
        self._sink = sink
        self._past = past
        self._quickly = quickly
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._ended: int = Close.ABNORMAL

    async def serve(self) -> None:
        core, sink = self._core, self._sink
        self._visitor.open(self._send_from_anywhere, self._close_from_anywhere, self._keep_from_anywhere)
        try:
            await self._perform(self._process.accepted(core, quickly=self._quickly))
            while (data := await self._next()) is not None:
                await self._perform(core.received(data, time.monotonic()))
        finally:
            sink.end()
            told = self._process.leave(core, self._ended)
            if told is not None:
                await self._process.leave_state(core)
                await self._disconnected(told)
                await self._process.leave_state(core)  # which may have changed it

    async def _next(self) -> str | bytes | None:
        """The next message, or None when the connection has ended; then `_ended` is the code."""
        event: Any = await self._sink.outbox.unless_stopped(self._receive)
        self._sink.heard()
        if event is not None and event["type"] == "websocket.receive":
            text: str | None = event.get("text")
            return text if text is not None else event["bytes"]
        if self._sink.close_code is not None:
            self._ended = self._sink.close_code
        elif event is None or "reason" not in event:
            # uvicorn says 1005 for a line that just broke; only a close frame comes with a reason, be it empty.
            self._ended = Close.ABNORMAL
        else:
            self._ended = event.get("code") or Close.NO_STATUS
        return None

    async def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Handle(message, id):
                    await self._handle(message, id)
                case Join(resume):
                    await self._join(resume)
                case Ping():
                    self._sink.ping()
                case End(code, reason):
                    self._sink.close(code, reason)

    async def _handle(self, message: Message, id: int | str | None) -> None:
        error: Exception | None = None
        try:
            await acall(self._facility.receive, self._visitor, message)
        except Exception as raised:  # noqa: BLE001  # whatever it is, it is this connection's alone (contract 6.2)
            error = raised
        await self._perform(settled(error, id, self._core, self._visitor, self._process.node, time.monotonic()))

    async def _join(self, resume: Mapping[str, Position]) -> None:
        try:
            past = await self._process.read_past(self._core, resume) if self._past is None else self._past
        except RealtimeUnavailable as error:
            logger.warning("%r cannot join, it will come again: %s", self._core, error)
            self._close(Close.OVERLOADED, "messages cannot be had just now")
        else:
            self._past = None
            self._process.attach(self._core, past, resume)

    def _close(self, code: int, reason: str) -> None:
        for effect in self._core.close(code, reason):
            if isinstance(effect, End):
                self._sink.close(effect.code, effect.reason)

    async def _disconnected(self, code: int) -> None:
        try:
            await acall(self._facility.disconnected, self._visitor, code)
        except Exception as error:  # noqa: BLE001  # the connection is gone already: all that is left is to say so
            log_failure("disconnected", error, self._core, self._visitor, self._process.node)

    # Handlers may run in a thread (`def`) or in the loop (`async def`): their order must hold in both.

    def _send_from_anywhere(self, frame: Frame) -> None:
        self._in_loop(self._sink.send, frame)

    def _close_from_anywhere(self, code: int, reason: str) -> None:
        self._in_loop(self._close, code, reason)

    def _keep_from_anywhere(self) -> None:
        self._in_loop(self._process.keep, self._core)

    def _in_loop(self, function: Callable[..., None], *args: Any) -> None:
        if _get_running_loop() is self._loop:
            function(*args)
        else:
            self._loop.call_soon_threadsafe(function, *args)
