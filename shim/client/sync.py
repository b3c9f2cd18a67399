"""The client for threads. `shim/client/asyncio.py` is its twin: same names, same order."""

import logging
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Self

from websockets.exceptions import ConnectionClosed as WebSocketClosed
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from shim.client.base import BaseClient, Way
from shim.client.discovery import Address, is_complete
from shim.client.effects import Dial, Drop, Effect, Leave, Probe, Tell, Transmit
from shim.client.errors import ClientError, ConnectionClosed, DiscoveryError, NotConnected
from shim.client.events import Event
from shim.client.frames import Received
from shim.client.transport import Line, end_of
from shim.core.protocol import Close

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Link:
    """One connection, from the attempt to its end."""

    number: int
    line: Line = field(default_factory=Line)
    websocket: ClientConnection | None = None
    pong: threading.Event | None = None


class Client(BaseClient):
    """A realtime connection that stays: it finds its backend, resumes, moves, and comes back by itself.

    ```python
    with Client("http://127.0.0.1:8000/realtime/endpoint", facility="calls", cookies={"sessionid": …}) as client:
        for message in client:
            print(message.topic, message.value)
    ```

    A thread of its own reads, answers pings and reconnects, also while no message is taken; when `buffer_messages` wait
    it stops reading. While it moves there are two connections, each with a thread. All methods can be called from any
    thread; each message goes to one taker. `on_event` runs in the client's threads, one call at a time, so it must not
    wait there for a message or an ack. A client is opened once.

    Arguments: see `BaseClient`.
    """

    def _prepare(self) -> None:
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._links: dict[int, _Link] = {}
        self._news: deque[Event] = deque()
        self._telling = threading.Lock()

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
            if self._threads or self._over:
                raise RuntimeError("a client is opened once: make another one, with positions= of this one")
            self._spawn(partial(self._run, self._attempt))
        try:
            self._until(lambda: self._opening_is_over, self._open_timeout)
            self._check_opened()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """End the connection with 1000 and all iteration, at once; then wait for the client's threads. Idempotent."""
        with self._changed:
            self._closing = True
            self._session.closed()
            self._inbox.clear()
            links = list(self._links.values())
            threads = list(self._threads)
            self._changed.notify_all()
        for link in links:
            self._hang_up(link)
        if threading.current_thread() not in threads:
            for thread in threads:
                thread.join()

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
            if self._threads:
                self._changed.wait_for(lambda: len(self._inbox) > 0 or self._over, timeout)
            message = self._take()
            if message is not None:
                self._changed.notify_all()  # there may be room again
                return message
            if self._over or not self._threads:
                raise self._ended()
        raise TimeoutError(f"no message within {timeout:g} s")

    def send(self, value: object, *, ack_timeout: float | None = None) -> int:
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
        with self._changed:
            id, frame = self._outgoing(value, awaited=ack_timeout is not None)
            link = self._links.get(self._session.link)
            websocket = link.websocket if link is not None else None
            if websocket is None or not self.connected:
                raise NotConnected(f"not connected ({self.state}): nothing was sent")
            self._sending(id, awaited=ack_timeout is not None)
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

    # Inside: the threads

    def _until(self, condition: Callable[[], bool], timeout: float | None) -> bool:
        with self._changed:
            return self._changed.wait_for(condition, timeout)

    def _spawn(self, work: Callable[[], object]) -> None:
        with self._changed:
            if self._closing:
                return
            thread = threading.Thread(target=work, name="shim-client", daemon=True)
            self._threads = [thread, *(each for each in self._threads if each.is_alive())]
            thread.start()

    def _run(self, begin: Callable[[], bool]) -> None:
        """The life of a thread that serves the present connection, or a new one that may become it."""
        try:
            while begin():
                self._until(lambda: self._over, self._session.delay)
                begin = self._attempt
        except Exception as error:
            logger.exception("the client's thread failed")
            with self._changed:
                self._session.broken(ClientError(f"a fault in the client: {type(error).__name__}: {error}"))
                links = list(self._links.values())
            for link in links:
                self._hang_up(link)
        finally:
            with self._changed:
                self._changed.notify_all()

    def _attempt(self) -> bool:
        """Find the backend, and serve the connection to it; whether there is to be another one."""
        if self._over:
            return False
        self._step(None, self._session.connecting)
        link = self._new_link(self._session.link)
        try:
            if self._endpoint_address is not None:
                self._discover(link, self._endpoint_address)
            websocket, url = self._connect(link, self._handshake(self._target, self._connect_timeout))
        except (OSError, WebSocketException, DiscoveryError) as error:
            failed = error
            self._step(link, lambda: self._failed(failed))
        else:
            self._serve(link, websocket, url)
        return self._carries_on(link)

    def _move(self, link: _Link, dial: Dial) -> bool:
        """Serve the new connection of a move (contract 8.3); whether it became the present one, and needs another."""
        try:
            websocket, url = self._connect(link, self._way(dial))
        except (OSError, WebSocketException, DiscoveryError) as error:
            failed = error
            self._step(link, lambda: self._not_moved(dial, failed))
        else:
            self._serve(link, websocket, url)
        return self._carries_on(link)

    def _new_link(self, number: int) -> _Link:
        with self._changed:
            link = self._links[number] = _Link(number)
            if self._closing:
                link.line.cut()
        return link

    def _carries_on(self, link: _Link) -> bool:
        link.line.close()
        with self._changed:
            del self._links[link.number]
            return not self._over and link.number == self._session.link

    def _hang_up(self, link: _Link) -> None:
        """Close a connection, or end the attempt at it."""
        link.line.cut()
        if link.websocket is not None:
            link.websocket.close(Close.NORMAL)

    def _discover(self, link: _Link, address: Address) -> None:
        deadline = self._clock() + self._connect_timeout
        connection = link.line.dial(address.host, address.port, self._connect_timeout)
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

    def _connect(self, link: _Link, way: Way) -> tuple[ClientConnection, str]:
        url, address, options = way
        sock = link.line.dial(address.host, address.port, options["open_timeout"])
        sock.settimeout(None)  # `websockets` keeps its own time-outs from here on
        context = self._ssl_context if address.tls else None
        return connect(url, sock=sock, ssl=context, **options), url

    def _serve(self, link: _Link, websocket: ClientConnection, url: str) -> None:
        link.line.close()
        code, reason, ours = int(Close.NORMAL), "", True
        try:
            with websocket:
                link.websocket = websocket
                drop = self._talk(link, websocket, url)
                if drop is not None:
                    code, reason = drop.code, drop.reason
                    websocket.close(code, reason)
        except WebSocketClosed as error:
            code, reason, ours = end_of(error)
        self._step(link, lambda: self._session.lost(code, reason, self._clock(), ours=ours, link=link.number))

    def _talk(self, link: _Link, websocket: ClientConnection, url: str) -> Drop | None:
        headers = websocket.response.headers if websocket.response is not None else None
        drop = self._step(link, lambda: self._greeted(link.number, url, headers, websocket.subprotocol))
        while drop is None and self._session.holds(link.number):
            drop = self._read(link, websocket)
        return drop

    def _read(self, link: _Link, websocket: ClientConnection) -> Drop | None:
        self._until(lambda: self._may_read(link.number), None)
        try:
            data = websocket.recv(timeout=self._patience(link.number))
        except TimeoutError:
            answered = link.pong is not None and link.pong.is_set()
            return self._step(link, lambda: self._session.tick(self._clock(), answered=answered, link=link.number))
        return self._step(link, lambda: self._heard(link.number, data))

    def _step(self, link: _Link | None, step: Callable[[], Iterable[Effect]]) -> Drop | None:
        """One move of the state machine, and what follows from it; a `Drop` is for the caller."""
        with self._changed:
            effects = self._keep(step())
            self._news.extend(effect.event for effect in effects if isinstance(effect, Tell))
            self._changed.notify_all()
        self._tell_news()
        websocket = link.websocket if link is not None else None
        for effect in effects:
            match effect:
                case Transmit(text) if websocket is not None:
                    websocket.send(text)
                case Probe() if websocket is not None and link is not None:
                    link.pong = websocket.ping()
                case Dial(number):
                    self._spawn(partial(self._run, partial(self._move, self._new_link(number), effect)))
                case Leave(number):
                    self._leave(number)
                case Drop():
                    return effect
        return None

    def _tell_news(self) -> None:
        """Tell what has happened, in the order in which it has, whichever thread it was."""
        with self._telling:
            while self._news:
                self._tell(self._news.popleft())

    def _leave(self, number: int) -> None:
        """Close a connection that another thread reads, and wait for nothing."""
        with self._changed:
            link = self._links.get(number)
        if link is not None:
            self._spawn(partial(self._hang_up, link))
