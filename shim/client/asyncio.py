"""The client for asyncio. `shim/client/sync.py` is its twin: same names, same order."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed as WebSocketClosed
from websockets.exceptions import WebSocketException

from shim.client.base import BaseClient
from shim.client.discovery import Address, is_complete
from shim.client.effects import Drop, Effect, Probe, State, Tell, Transmit
from shim.client.errors import ClientError, ConnectionClosed, DiscoveryError, NotConnected
from shim.client.frames import Received
from shim.client.transport import SEND_TIMEOUT, end_of
from shim.core.protocol import Close

logger = logging.getLogger(__name__)


class AsyncClient(BaseClient):
    """A realtime connection that stays: it finds its backend, resumes, and comes back by itself.

    ```python
    async with AsyncClient("http://127.0.0.1:8000/realtime/endpoint", facility="calls") as client:
        async for message in client:
            print(message.topic, message.value)
    ```

    A task of its own reads, answers pings and reconnects, also while no message is taken; when `buffer_messages` wait
    it stops reading. It belongs to the event loop that opened it; tasks of that loop may share it, and each message
    goes to one taker. Cancelling any of its methods loses no message. `on_event` is a plain function, run in the
    client's task. A client is opened once.

    Arguments: see `BaseClient`.
    """

    def _prepare(self) -> None:
        self._waiters: list[asyncio.Future[None]] = []
        self._worker: asyncio.Task[None] | None = None
        self._websocket: ClientConnection | None = None
        self._pong: asyncio.Future[float] | None = None

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
        if self._worker is not None or self._over:
            raise RuntimeError("a client is opened once: make another one, with positions= of this one")
        self._worker = asyncio.create_task(self._run(), name="shim-client")
        try:
            await self._until(lambda: self._opening_is_over, self._open_timeout)
            self._check_opened()
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """End the connection with 1000 and all iteration, at once; then wait for the client's task. Idempotent."""
        self._closing = True
        self._session.closed()
        self._inbox.clear()
        websocket = self._websocket
        self._notify()
        worker = self._worker
        if worker is None or worker.done():
            return
        try:
            if websocket is not None:
                await websocket.close(Close.NORMAL)
            else:
                worker.cancel()
            await asyncio.wait([worker])
        finally:
            worker.cancel()  # nothing, unless close itself was cancelled

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
        if self._worker is not None:
            await self._until(lambda: len(self._inbox) > 0 or self._over, timeout)
        message = self._take()
        if message is not None:
            self._notify()  # there may be room again
            return message
        if self._over or self._worker is None:
            raise self._ended()
        raise TimeoutError(f"no message within {timeout:g} s")

    async def send(self, value: object, *, ack_timeout: float | None = None) -> int:
        """Send a message to the facility's handler: `str`, `bytes`, a `Message`, or anything JSON can carry.

        Nothing is kept for later: while there is no connection it raises.

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
        websocket = self._websocket
        if websocket is None or not self.connected:
            raise NotConnected(f"not connected ({self.state}): nothing was sent")
        if ack_timeout is not None:
            self._session.acks.expect(id)
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

    # Inside: the worker

    async def _until(self, condition: Callable[[], bool], seconds: float | None) -> bool:
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

    async def _run(self) -> None:
        try:
            while await self._attempt():
                await self._until(lambda: self._over, self._session.delay)
        except Exception as error:
            logger.exception("the client's task failed")
            self._session.broken(ClientError(f"a fault in the client: {type(error).__name__}: {error}"))
        finally:
            if not self._over:  # cancelled from outside, as at the end of asyncio.run
                self._closing = True
                self._session.closed()
            self._notify()

    async def _attempt(self) -> bool:
        """Whether there is to be another one."""
        if self._over:
            return False
        await self._step(None, self._session.connecting)
        try:
            if self._endpoint_address is not None:
                await self._discover(self._endpoint_address)
            websocket, url = await self._connect()
        except (OSError, WebSocketException, DiscoveryError) as error:
            failed = error
            await self._step(None, lambda: self._failed(failed))
        else:
            async with websocket:
                await self._serve(websocket, url)
        return not self._over

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

    async def _connect(self) -> tuple[ClientConnection, str]:
        url, address, options = self._handshake()
        if address.tls and self._ssl_context is not None:
            options["ssl"] = self._ssl_context
        return await connect(url, **options), url

    async def _serve(self, websocket: ClientConnection, url: str) -> None:
        response = websocket.response
        if self._closing:
            return
        self._websocket = websocket
        self._pong = None
        try:
            headers = response.headers if response is not None else None
            drop = await self._step(websocket, lambda: self._greeted(url, headers, websocket.subprotocol))
            while drop is None and self.state is not State.WAITING:
                drop = await self._read(websocket)
            if drop is None:
                return
            await websocket.close(drop.code, drop.reason)
            code, reason, ours = drop.code, drop.reason, True
        except WebSocketClosed as error:
            code, reason, ours = end_of(error)
        except asyncio.CancelledError:
            await websocket.close(Close.NORMAL)
            raise
        finally:
            self._websocket = None
        await self._step(None, lambda: self._session.lost(code, reason, self._clock(), ours=ours))

    async def _read(self, websocket: ClientConnection) -> Drop | None:
        if self._inbox.full:
            await self._until(lambda: not self._inbox.full or self._over, None)
        try:
            async with asyncio.timeout(self._patience()):
                data = await websocket.recv()
        except TimeoutError:
            pong = self._pong
            answered = pong is not None and pong.done() and not pong.cancelled() and pong.exception() is None
            return await self._step(websocket, lambda: self._session.tick(self._clock(), answered=answered))
        return await self._step(websocket, lambda: self._heard(data))

    async def _step(self, websocket: ClientConnection | None, step: Callable[[], Iterable[Effect]]) -> Drop | None:
        """One move of the state machine, and what follows from it; a `Drop` is for the caller."""
        effects = self._keep(step())
        self._notify()
        for effect in effects:
            match effect:
                case Tell(event):
                    self._tell(event)
                case Transmit(text) if websocket is not None:
                    await self._transmit(websocket, text)
                case Probe() if websocket is not None:
                    self._pong = asyncio.ensure_future(await websocket.ping())
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
