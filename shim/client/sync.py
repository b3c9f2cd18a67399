"""The client for threads. `shim/client/asyncio.py` is its twin: same names, same order."""

import logging
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self

from websockets.exceptions import ConnectionClosed as WebSocketClosed
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from shim.client.base import BaseClient
from shim.client.discovery import Address, is_complete
from shim.client.effects import Drop, Effect, Probe, State, Tell, Transmit
from shim.client.errors import ClientError, ConnectionClosed, DiscoveryError, NotConnected
from shim.client.frames import Received
from shim.client.transport import Line, end_of
from shim.core.protocol import Close

logger = logging.getLogger(__name__)


class Client(BaseClient):
    """A realtime connection that stays: it finds its backend, resumes, and comes back by itself.

    ```python
    with Client("http://127.0.0.1:8000/realtime/endpoint", facility="calls", cookies={"sessionid": …}) as client:
        for message in client:
            print(message.topic, message.value)
    ```

    A thread of its own reads, answers pings and reconnects, also while no message is taken; when `buffer_messages` wait
    it stops reading. All methods can be called from any thread; each message goes to one taker. `on_event` runs in the
    client's thread, so it must not wait there for a message or an ack. A client is opened once.

    Arguments: see `BaseClient`.
    """

    def _prepare(self) -> None:
        self._changed = threading.Condition()
        self._worker: threading.Thread | None = None
        self._websocket: ClientConnection | None = None
        self._line = Line()
        self._pong: threading.Event | None = None

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> Self:
        """Start, and wait up to `open_timeout` seconds for the first connection.

        Raises:
            ClientError: why there will be none, or (`NotConnected`) none came in time; the client is closed then.
            RuntimeError: it was opened before.
        """
        with self._changed:
            if self._worker is not None or self._over:
                raise RuntimeError("a client is opened once: make another one, with positions= of this one")
            self._worker = threading.Thread(target=self._run, name="shim-client", daemon=True)
            self._worker.start()
        try:
            self._until(lambda: self._opening_is_over, self._open_timeout)
            self._check_opened()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """End the connection with 1000 and all iteration, at once; then wait for the client's thread. Idempotent."""
        with self._changed:
            self._closing = True
            self._session.closed()
            self._inbox.clear()
            websocket = self._websocket
            self._changed.notify_all()
        self._line.cut()
        if websocket is not None:
            websocket.close(Close.NORMAL)
        if self._worker is not None and self._worker is not threading.current_thread():
            self._worker.join()

    def __iter__(self) -> Iterator[Received]:
        """Take messages until the client is closed, by `close` or by the server with 1000.

        Raises:
            ClientError: the client has given up: `ConnectionClosed` with another code, `HandshakeRefused`, ….
        """
        return self

    def __next__(self) -> Received:
        try:
            return self.receive()
        except ConnectionClosed as closed:
            if closed.code == Close.NORMAL:
                raise StopIteration from None
            raise

    def receive(self, timeout: float | None = None) -> Received:
        """Take the next message.

        Args:
            timeout: seconds to wait; None waits as long as the client lives.

        Raises:
            TimeoutError: none came. ConnectionClosed: no more will. ClientError: why the client has given up.
        """
        with self._changed:
            if self._worker is not None:
                self._changed.wait_for(lambda: len(self._inbox) > 0 or self._over, timeout)
            message = self._take()
            if message is not None:
                self._changed.notify_all()  # there may be room again
                return message
            if self._over or self._worker is None:
                raise self._ended()
        raise TimeoutError(f"no message within {timeout:g} s")

    def send(self, value: object, *, ack_timeout: float | None = None) -> int:
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
        with self._changed:
            id, frame = self._outgoing(value, awaited=ack_timeout is not None)
            websocket = self._websocket
            if websocket is None or not self.connected:
                raise NotConnected(f"not connected ({self.state}): nothing was sent")
            if ack_timeout is not None:
                self._session.acks.expect(id)
        try:
            websocket.send(frame)
            if ack_timeout is not None:
                self._until(lambda: self._session.acks.outcome(id) is not None, ack_timeout)
                self._check_outcome(id, ack_timeout)
        except WebSocketClosed as error:
            raise NotConnected(f"the connection ended while sending: {error}") from None
        finally:
            with self._changed:
                self._session.acks.forget(id)
        return id

    def wait_until(self, condition: Callable[[Self], bool], timeout: float) -> Self:
        """Wait for something that this client shows: `client.wait_until(lambda c: c.backend == "channels", 5)`.

        Raises:
            TimeoutError: it did not come true in so many seconds.
        """
        if not self._until(lambda: condition(self), timeout):
            raise TimeoutError(f"still {self!r} after {timeout:g} s; last failure: {self._session.failure}")
        return self

    # Inside: the worker

    def _until(self, condition: Callable[[], bool], timeout: float | None) -> bool:
        with self._changed:
            return self._changed.wait_for(condition, timeout)

    def _run(self) -> None:
        try:
            while self._attempt():
                self._until(lambda: self._over, self._session.delay)
        except Exception as error:
            logger.exception("the client's thread failed")
            with self._changed:
                self._session.broken(ClientError(f"a fault in the client: {type(error).__name__}: {error}"))
        finally:
            self._line.close()
            with self._changed:
                self._changed.notify_all()

    def _attempt(self) -> bool:
        """Whether there is to be another one."""
        if self._over:
            return False
        self._step(None, self._session.connecting)
        try:
            if self._endpoint_address is not None:
                self._discover(self._endpoint_address)
            websocket, url = self._connect()
        except (OSError, WebSocketException, DiscoveryError) as error:
            failed = error
            self._step(None, lambda: self._failed(failed))
        else:
            self._line.close()
            with websocket:
                self._serve(websocket, url)
        return not self._over

    def _discover(self, address: Address) -> None:
        deadline = self._clock() + self._connect_timeout
        connection = self._line.dial(address.host, address.port, self._connect_timeout)
        try:
            if address.tls:
                context = self._ssl_context or ssl.create_default_context()
                connection = context.wrap_socket(connection, server_hostname=address.host)
            connection.sendall(self._request())
            data = b""
            while not is_complete(data, self._endpoint):
                connection.settimeout(max(deadline - self._clock(), 0.001))
                chunk = connection.recv(65_536)
                if not chunk:
                    break
                data += chunk
        finally:
            connection.close()
        with self._changed:
            self._discovered(data, address)

    def _connect(self) -> tuple[ClientConnection, str]:
        url, address, options = self._handshake()
        sock = self._line.dial(address.host, address.port, self._connect_timeout)
        sock.settimeout(None)  # `websockets` keeps its own time-outs from here on
        context = self._ssl_context if address.tls else None
        return connect(url, sock=sock, ssl=context, **options), url

    def _serve(self, websocket: ClientConnection, url: str) -> None:
        response = websocket.response
        with self._changed:
            if self._closing:
                return
            self._websocket = websocket
            self._pong = None
        try:
            headers = response.headers if response is not None else None
            drop = self._step(websocket, lambda: self._greeted(url, headers, websocket.subprotocol))
            while drop is None and self.state is not State.WAITING:
                drop = self._read(websocket)
            if drop is None:
                return
            websocket.close(drop.code, drop.reason)
            code, reason, ours = drop.code, drop.reason, True
        except WebSocketClosed as error:
            code, reason, ours = end_of(error)
        finally:
            with self._changed:
                self._websocket = None
        self._step(None, lambda: self._session.lost(code, reason, self._clock(), ours=ours))

    def _read(self, websocket: ClientConnection) -> Drop | None:
        self._until(lambda: not self._inbox.full or self._over, None)
        try:
            data = websocket.recv(timeout=self._patience())
        except TimeoutError:
            answered = self._pong is not None and self._pong.is_set()
            return self._step(websocket, lambda: self._session.tick(self._clock(), answered=answered))
        return self._step(websocket, lambda: self._heard(data))

    def _step(self, websocket: ClientConnection | None, step: Callable[[], Iterable[Effect]]) -> Drop | None:
        """One move of the state machine, and what follows from it; a `Drop` is for the caller."""
        with self._changed:
            effects = self._keep(step())
            self._changed.notify_all()
        for effect in effects:
            match effect:
                case Tell(event):
                    self._tell(event)
                case Transmit(text) if websocket is not None:
                    websocket.send(text)
                case Probe() if websocket is not None:
                    self._pong = websocket.ping()
                case Drop():
                    return effect
        return None
