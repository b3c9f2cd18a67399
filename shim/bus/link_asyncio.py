"""One async connection to Redis, and the pool of them. Twin of `shim.bus.link_sync`.

Not redis-py's async connection: when Redis hangs, that can only be closed politely, so what is still to be written
stays in memory for as long as Redis hangs, once for each publish that timed out. This one is cut. It is a plain
`asyncio.Protocol` around hiredis's parser; URLs, TLS settings and error classes are redis-py's.

A time-out is the caller's here: it cancels, and a connection that is cancelled in the middle has ended.
"""

import asyncio
import socket
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final, NoReturn, cast

import hiredis
from redis.asyncio import connection as redis_py
from redis.exceptions import ConnectionError as LinkLost
from redis.exceptions import InvalidResponse
from redis.exceptions import TimeoutError as LinkTimeout

from shim.bus.commands import Command
from shim.bus.endpoint import is_memory, refusal

IDLE_CONNECTION: Final = 60.0  # seconds; what a burst opened is closed again, or a fleet would sit on its peak for ever
FRESH: Final = 0.005  # seconds since its last use for which a connection is taken to be open: no Redis restarts in that
UNREAD: Final = 262_144  # bytes that were received and not yet taken, above which no more are received
NOTHING: Final = object()


class Link(asyncio.Protocol):
    """A connection, from `dial` to `cut`. One task asks, or hears, or listens; another one may send."""

    generation = 0
    used_at = 0.0

    def __init__(self) -> None:
        self.ended: Exception | None = None
        self._loop = asyncio.get_running_loop()
        self._parser = hiredis.Reader(
            protocolError=InvalidResponse, replyError=refusal, errors=None, notEnoughData=NOTHING
        )
        self._transport: asyncio.Transport | None = None
        self._unread = 0
        self._arrival: asyncio.Future[None] | None = None  # who hears waits for it, and who listens for the end
        self._listener: Callable[[object], None] | None = None
        self._crowd = 0
        self._is_crowded = False  # the rest of what came is for the next turn
        self._room: asyncio.Future[None] | None = None  # while the transport wants no more: who sends waits for it
        self._is_paused = False
        self._received_at = monotonic()

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """There it is."""
        self._transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        """Something came."""
        self._received_at = monotonic()
        self._parser.feed(data)
        self._unread += len(data)
        if self._unread > UNREAD and self._transport is not None and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()
        if self._listener is None:
            self._wake(self._arrival)
        elif not self._is_crowded:
            self._hand_on()

    def eof_received(self) -> None:
        """Redis has closed it; `connection_lost` follows, but a turn later."""
        self._end(LinkLost("Connection closed by server."))

    def connection_lost(self, exc: Exception | None) -> None:
        """The network, or we, have ended it."""
        self._end(LinkLost(f"Connection lost: {exc}" if exc else "Connection lost."))

    def pause_writing(self) -> None:
        """Redis takes less than we send."""
        if self._room is None:
            self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        """Redis has caught up."""
        self._wake(self._room)
        self._room = None

    # What the owner calls

    async def is_usable(self) -> bool:
        """Whether it can be used again: still open, and nothing unread that would be taken for the next answer."""
        if monotonic() - self.used_at > FRESH:
            # The loop learns of a closed connection when it looks at its sockets: in the first turn it looks, in the
            # second it tells. Without this, the first publish after a restart of Redis would fail.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        return self.ended is None and not self._parser.has_data()

    async def ask(self, commands: Sequence[Command]) -> list[object]:
        """Send commands and return their answers, errors as exceptions.

        Raises:
            RedisError: no connection, or no answer; the connection has ended.
        """
        try:
            await self.send(commands)
            return [await self.hear() for _ in commands]
        except BaseException:
            self.cut()  # an answer may still come, and would be taken for that of the next command
            raise

    async def send(self, commands: Sequence[Command]) -> None:
        """Send commands; waits while Redis takes less than is sent."""
        self.post(commands)
        while self._room is not None:
            await self._room
            if self.ended is not None:
                raise self.ended

    def post(self, commands: Sequence[Command]) -> None:
        """Send commands without waiting.

        Raises:
            RedisError: the connection has ended.
        """
        if self.ended is not None or self._transport is None:
            raise LinkLost("the connection has ended") from self.ended
        pack: Any = hiredis.pack_command  # its stub wants a tuple of one
        packed = [pack(command) for command in commands]
        self._transport.write(packed[0] if len(packed) == 1 else b"".join(packed))

    @property
    def unsent(self) -> int:
        """Bytes that Redis has not taken yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    @property
    def heard_at(self) -> float:
        """When something came last, on the monotonic clock; now, while we are the ones who do not listen."""
        return monotonic() if self._is_paused else self._received_at

    async def hear(self) -> object:
        """The next thing that Redis says; a refusal is returned as the exception it is.

        Raises:
            RedisError: the connection has ended.
        """
        while (reply := self._parser.gets()) is NOTHING:
            if self.ended is not None:
                raise self.ended
            self._all_is_read()
            await self._wait()
        return reply

    async def listen(self, listener: Callable[[object], None], crowd: int) -> NoReturn:
        """Give all that Redis says to a function, as soon as it comes and without waking a task, until the end.

        Args:
            listener: what it raises ends the connection.
            crowd: after so many in a row other tasks get their turn.

        Raises:
            RedisError: the connection has ended. Exception: what the listener has raised.
        """
        self._listener, self._crowd = listener, crowd
        try:
            self._hand_on()
            while self.ended is None or self._is_crowded:
                await self._wait()
            raise self.ended
        finally:
            self._listener = None

    def cut(self, reason: Exception | None = None) -> None:
        """End it now, whatever is still to be sent."""
        self._end(reason or LinkLost("the connection has ended"))
        if self._transport is not None:
            self._transport.abort()

    def _hand_on(self) -> None:
        """Give the listener what has come; what is too much for one turn, in the next one."""
        self._is_crowded = False
        try:
            for _ in range(self._crowd):
                if self._listener is None:
                    return
                if (reply := self._parser.gets()) is NOTHING:
                    self._all_is_read()
                    return
                self._listener(reply)
        except Exception as error:  # noqa: BLE001  # `listen` raises it
            self.cut(error)
            return
        self._is_crowded = True
        self._loop.call_soon(self._hand_on)

    def _all_is_read(self) -> None:
        self._unread = 0
        if self.ended is not None:
            self._wake(self._arrival)
        elif self._is_paused and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()

    async def _wait(self) -> None:
        self._arrival = self._loop.create_future()
        try:
            await self._arrival
        finally:
            self._arrival = None

    def _end(self, error: Exception) -> None:
        if self.ended is None:
            self.ended = error
        self._wake(self._arrival)
        self._wake(self._room)

    def _wake(self, waiter: asyncio.Future[None] | None) -> None:
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


async def dial(url: str, *, client_name: str = "") -> Link:
    """Make a connection, handshake included.

    Args:
        url: as for `Endpoint`.
        client_name: shown in CLIENT LIST.

    Raises:
        RedisError: Redis refused it.
        OSError: it could not be made.
    """
    if is_memory(url):
        from shim.bus.memory import AsyncMemoryLink  # noqa: PLC0415  # for tests and DEBUG alone

        return cast("Link", AsyncMemoryLink(url))
    settings: dict[str, Any] = cast("Any", redis_py).parse_url(url)
    loop = asyncio.get_running_loop()
    if "path" in settings:
        _, link = await loop.create_unix_connection(Link, settings["path"])
    else:
        tls = {name: value for name, value in settings.items() if name.startswith("ssl_")}
        is_tls = settings.get("connection_class") is redis_py.SSLConnection
        context = redis_py.SSLConnection(**tls).ssl_context.get() if is_tls else None
        host = settings.get("host", "localhost")
        _, link = await loop.create_connection(Link, host, settings.get("port", 6379), ssl=context)
    user, password = settings.get("username"), settings.get("password")
    greeting: list[Command] = []
    if user or password:
        greeting.append(("AUTH", user, password or "") if user else ("AUTH", password or ""))
    name = settings.get("client_name") or client_name
    if name:
        greeting.append(("CLIENT", "SETNAME", name))
    if int(settings.get("db", 0)):
        greeting.append(("SELECT", int(settings["db"])))
    for reply in await link.ask(greeting) if greeting else ():
        if isinstance(reply, Exception):
            link.cut()
            raise reply
    return link


class Pool:
    """Connections of one event loop, most recently used first; the number of connections in use is bounded."""

    def __init__(self, url: str, timeout: float, size: int) -> None:
        self._url = url
        self._timeout = timeout
        self._size = size
        self._slots = asyncio.Semaphore(size)
        self._idle: list[Link] = []
        self._generation = 0

    async def take(self) -> Link:
        """A connection that is open, made if need be.

        Raises:
            RedisError, OSError: none could be had.
        """
        if not self._slots.locked():
            await self._slots.acquire()  # at once; a time-out would cost more than all the rest of this
        else:
            try:
                async with asyncio.timeout(self._timeout * 0.9):  # before the caller's own, which could not say why
                    await self._slots.acquire()
            except TimeoutError:
                raise LinkTimeout(f"all {self._size} connections of this event loop were busy") from None
        try:
            while self._idle:
                link = self._idle.pop()
                try:
                    is_usable = await link.is_usable()
                except BaseException:
                    link.cut()
                    raise
                if is_usable:
                    return link
                link.cut()
            link = await dial(self._url)
            link.generation = self._generation
        except BaseException:
            self._slots.release()
            raise
        return link

    def give_back(self, link: Link) -> None:
        """The other end of `take`."""
        try:
            if link.ended is not None:
                self.clear()  # whatever ended it, ended the others too; each would cost a caller its time-out
                return
            if link.generation != self._generation:
                link.cut()
                return
            link.used_at = monotonic()
            self._idle.append(link)
            if self._idle[0].used_at < link.used_at - IDLE_CONNECTION:
                self._idle.pop(0).cut()
        finally:
            self._slots.release()

    def clear(self) -> None:
        """Close what is idle now, and what is in use as soon as it comes back."""
        self._generation += 1
        while self._idle:
            self._idle.pop().cut()
