"""The client for asyncio. `shim/client/sync.py` is its twin: same names, same order."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed as WebSocketClosed
from websockets.exceptions import WebSocketException

from shim.client.base import BaseClient, Way
from shim.client.discovery import Address, is_complete
from shim.client.effects import Dial, Drop, Effect, Leave, Probe, Tell, Transmit
from shim.client.errors import ClientError, ConnectionClosed, DiscoveryError, NotConnected
from shim.client.frames import Received
from shim.client.transport import SEND_TIMEOUT, end_of
from shim.core.protocol import Close

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Link:
    """One connection, from the attempt to its end; `is_left`: nobody wants it to be made any more."""

    number: int
    task: asyncio.Task[Any] | None = None
    is_left: bool = False
    websocket: ClientConnection | None = None
    pong: asyncio.Future[float] | None = None


class AsyncClient(BaseClient):
    """A realtime connection that stays: it finds its backend, resumes, moves, and comes back by itself.

    ```python
    async with AsyncClient("http://127.0.0.1:8000/realtime/endpoint", facility="calls") as client:
        async for message in client:
            print(message.topic, message.value)
    ```

    A task of its own reads, answers pings and reconnects, also while no message is taken; when `buffer_messages` wait
    it stops reading. While it moves there are two connections, each with a task. It belongs to the event loop that
    opened it; tasks of that loop may share it, and each message goes to one taker. Cancelling any of its methods loses
    no message. `on_event` is a plain function, run in the client's tasks. A client is opened once.

    Arguments: see `BaseClient`.
    """

    def _prepare(self) -> None:
        self._waiters: list[asyncio.Future[None]] = []
        self._tasks: list[asyncio.Task[Any]] = []
        self._links: dict[int, _Link] = {}

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> Self:
        """Start, and wait up to `open_timeout` seconds for the first connection.

        Raises:
            ClientError: why there will be none, or (`NotConnected`) none came in time; the client is closed then.
            RuntimeError: it was opened before.
        """
        if self._tasks or self._over:
            raise RuntimeError("a client is opened once: make another one, with positions= of this one")
        self._spawn(self._run(self._attempt))
        try:
            await self._until(lambda: self._opening_is_over, self._open_timeout)
            self._check_opened()
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """End the connection with 1000 and all iteration, at once; then wait for the client's tasks. Idempotent."""
        self._closing = True
        self._session.closed()
        self._inbox.clear()
        links = list(self._links.values())
        tasks = [task for task in self._tasks if not task.done()]
        self._notify()
        if not tasks:
            return
        try:
            await asyncio.gather(*(self._hang_up(link) for link in links))
            await asyncio.wait(tasks)
        finally:
            for task in tasks:
                task.cancel()  # nothing, unless close itself was cancelled

    def __aiter__(self) -> AsyncIterator[Received]:
        """Take messages until the client is closed, by `close` or by the server with 1000.

        Raises:
            ClientError: the client has given up: `ConnectionClosed` with another code, `HandshakeRefused`, ….
        """
        return self

    async def __anext__(self) -> Received:
        try:
            return await self.receive()
        except ConnectionClosed as closed:
            if closed.code == Close.NORMAL:
                raise StopAsyncIteration from None
            raise

    async def receive(self, timeout: float | None = None) -> Received:
        """Take the next message.

        Args:
            timeout: seconds to wait; None waits as long as the client lives.

        Raises:
            TimeoutError: none came. ConnectionClosed: no more will. ClientError: why the client has given up.
        """
        if self._tasks:
            await self._until(lambda: len(self._inbox) > 0 or self._over, timeout)
        message = self._take()
        if message is not None:
            self._notify()  # there may be room again
            return message
        if self._over or not self._tasks:
            raise self._ended()
        raise TimeoutError(f"no message within {timeout:g} s")

    async def send(self, value: object, *, ack_timeout: float | None = None) -> int:
        """Send a message to the facility's handler: `str`, `bytes`, a `Message`, or anything JSON can carry.

        Nothing is kept for later: while there is no connection it raises. Messages of one connection are taken in order
        (contract 6.1); where two must be in order across a move, await the ack of the first.

        Args:
            value: the message.
            ack_timeout: seconds to wait for the handler to have taken it (v1); None does not wait.

        Returns:
            The message's id, as in a later `ServerError` event.

        Raises:
            NotConnected: there is no connection, or it ended before the ack. TimeoutError: no ack in time.
            SendRefused: the server did not take it. InvalidPayload, MessageTooLarge: it cannot be sent.
        """
        id, frame = self._outgoing(value, awaited=ack_timeout is not None)
        link = self._links.get(self._session.link)
        websocket = link.websocket if link is not None else None
        if websocket is None or not self.connected:
            raise NotConnected(f"not connected ({self.state}): nothing was sent")
        self._sending(id, awaited=ack_timeout is not None)
        try:
            await self._transmit(websocket, frame)
            if ack_timeout is not None:
                await self._until(lambda: self._session.acks.outcome(id) is not None, ack_timeout)
                self._check_outcome(id, ack_timeout)
        except WebSocketClosed as error:
            raise NotConnected(f"the connection ended while sending: {error}") from None
        finally:
            self._session.acks.forget(id)
        return id

    async def wait_until(self, condition: Callable[[Self], bool], timeout: float) -> Self:
        """Wait for something that this client shows: `await client.wait_until(lambda c: c.backend == "channels", 5)`.

        Raises:
            TimeoutError: it did not come true in so many seconds.
        """
        if not await self._until(lambda: condition(self), timeout):
            raise TimeoutError(f"still {self!r} after {timeout:g} s; last failure: {self._session.failure}")
        return self

    # Inside: the tasks

    async def _until(self, condition: Callable[[], bool], seconds: float | None) -> bool:
        if condition():
            return True  # as it mostly is where messages come fast: a time-out costs as much as a message
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    waiter = asyncio.get_running_loop().create_future()
                    self._waiters.append(waiter)
                    try:
                        await waiter
                    finally:
                        self._waiters.remove(waiter)
        except TimeoutError:
            return condition()
        return True

    def _notify(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _spawn(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work, name="shim-client")
        self._tasks = [task, *(each for each in self._tasks if not each.done())]
        return task

    async def _run(self, begin: Callable[[], Awaitable[bool]]) -> None:
        """The life of a task that serves the present connection, or a new one that may become it."""
        try:
            while await begin():
                await self._until(lambda: self._over, self._session.delay)
                begin = self._attempt
        except asyncio.CancelledError:
            if not self._over:  # from outside, as at the end of asyncio.run
                self._closing = True
                self._session.closed()
            raise
        except Exception as error:
            logger.exception("the client's task failed")
            self._session.broken(ClientError(f"a fault in the client: {type(error).__name__}: {error}"))
            for link in self._links.values():
                self._spawn(self._hang_up(link))
        finally:
            self._notify()

    async def _attempt(self) -> bool:
        """Find the backend, and serve the connection to it; whether there is to be another one."""
        if self._over:
            return False
        await self._step(None, self._session.connecting)
        link = self._new_link(self._session.link)
        link.task = asyncio.current_task()
        try:
            if self._endpoint_address is not None:
                await self._discover(self._endpoint_address)
            websocket, url = await self._connect(self._handshake(self._target, self._connect_timeout))
        except (OSError, WebSocketException, DiscoveryError) as error:
            failed = error
            await self._step(link, lambda: self._failed(failed))
        else:
            await self._serve(link, websocket, url)
        return self._carries_on(link)

    async def _move(self, link: _Link, dial: Dial) -> bool:
        """Serve the new connection of a move (contract 8.3); whether it became the present one, and needs another."""
        try:
            websocket, url = await self._connect(self._way(dial))
        except (OSError, WebSocketException, DiscoveryError) as error:
            failed = error
            await self._step(link, lambda: self._not_moved(dial, failed))
        except asyncio.CancelledError:
            if not link.is_left:
                raise
        else:
            await self._serve(link, websocket, url)
        return self._carries_on(link)

    def _new_link(self, number: int) -> _Link:
        link = self._links[number] = _Link(number)
        return link

    def _carries_on(self, link: _Link) -> bool:
        del self._links[link.number]
        return not self._over and link.number == self._session.link

    async def _hang_up(self, link: _Link) -> None:
        """Close a connection, or end the attempt at it."""
        if link.websocket is not None:
            await link.websocket.close(Close.NORMAL)
        elif link.task is not None:
            link.is_left = True
            link.task.cancel()

    async def _discover(self, address: Address) -> None:
        data = b""
        async with asyncio.timeout(self._connect_timeout):
            context = (self._ssl_context or ssl.create_default_context()) if address.tls else None
            reader, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
            try:
                writer.write(self._request())
                await writer.drain()
                while not is_complete(data, self._endpoint):
                    chunk = await reader.read(65_536)
                    if not chunk:
                        break
                    data += chunk
            finally:
                writer.transport.abort()
        self._discovered(data, address)

    async def _connect(self, way: Way) -> tuple[ClientConnection, str]:
        url, address, options = way
        if address.tls and self._ssl_context is not None:
            options["ssl"] = self._ssl_context
        return await connect(url, **options), url

    async def _serve(self, link: _Link, websocket: ClientConnection, url: str) -> None:
        code, reason, ours = int(Close.NORMAL), "", True
        try:
            async with websocket:
                link.websocket = websocket
                drop = await self._talk(link, websocket, url)
                if drop is not None:
                    code, reason = drop.code, drop.reason
                    await websocket.close(code, reason)
        except WebSocketClosed as error:
            code, reason, ours = end_of(error)
        await self._step(link, lambda: self._session.lost(code, reason, self._clock(), ours=ours, link=link.number))

    async def _talk(self, link: _Link, websocket: ClientConnection, url: str) -> Drop | None:
        try:
            headers = websocket.response.headers if websocket.response is not None else None
            drop = await self._step(link, lambda: self._greeted(link.number, url, headers, websocket.subprotocol))
            while drop is None and self._session.holds(link.number):
                drop = await self._read(link, websocket)
        except asyncio.CancelledError:
            await websocket.close(Close.NORMAL)
            raise
        return drop

    async def _read(self, link: _Link, websocket: ClientConnection) -> Drop | None:
        if not self._may_read(link.number):
            await self._until(lambda: self._may_read(link.number), None)
        try:
            async with asyncio.timeout(self._patience(link.number)):
                data = await websocket.recv()
        except TimeoutError:
            pong = link.pong
            answered = pong is not None and pong.done() and not pong.cancelled() and pong.exception() is None
            return await self._step(
                link, lambda: self._session.tick(self._clock(), answered=answered, link=link.number)
            )
        return await self._step(link, lambda: self._heard(link.number, data))

    async def _step(self, link: _Link | None, step: Callable[[], Iterable[Effect]]) -> Drop | None:
        """One move of the state machine, and what follows from it; a `Drop` is for the caller."""
        effects = self._keep(step())
        self._notify()
        for effect in effects:
            if isinstance(effect, Tell):  # before anything that another task could come between
                self._tell(effect.event)
        websocket = link.websocket if link is not None else None
        for effect in effects:
            match effect:
                case Transmit(text) if websocket is not None:
                    await self._transmit(websocket, text)
                case Probe() if websocket is not None and link is not None:
                    link.pong = asyncio.ensure_future(await websocket.ping())
                case Dial(number) if not self._over:
                    dialled = self._new_link(number)
                    dialled.task = self._spawn(self._run(partial(self._move, dialled, effect)))
                case Leave(number) if number in self._links:
                    self._spawn(self._hang_up(self._links[number]))
                case Drop():
                    return effect
        return None

    async def _transmit(self, websocket: ClientConnection, frame: str | bytes) -> None:
        try:
            async with asyncio.timeout(SEND_TIMEOUT):
                await websocket.send(frame)
        except TimeoutError:
            websocket.transport.abort()  # what was written stays half-sent: nothing else can follow it
            await websocket.wait_closed()
            raise WebSocketClosed(None, None) from None
