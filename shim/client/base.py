"""What the twins share: how a client is set up, what it shows, and every step that does no I/O."""

import logging
import ssl
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from random import SystemRandom
from typing import Any, Final, Literal

from websockets.datastructures import Headers
from websockets.typing import Subprotocol

from shim.client.discovery import (
    HTTP,
    WEBSOCKET,
    Address,
    Cookies,
    Endpoint,
    read_answer,
    read_endpoint,
    request_for,
    with_params,
)
from shim.client.effects import Counters, Deliver, Dial, Effect, Settle, State
from shim.client.errors import ClientError, ConnectionClosed, DiscoveryError, NotConnected, SendRefused
from shim.client.events import Event, Lost
from shim.client.frames import Ack, Received, Refusal, send_frame
from shim.client.inbox import MAX_BYTES, MAX_MESSAGES, Inbox
from shim.client.protocol import Session
from shim.client.transport import CLOSE_TIMEOUT, MAX_QUEUED_FRAMES, Failure, failure_of
from shim.core.errors import shown
from shim.core.message import Kind, Message
from shim.core.protocol import SUBPROTOCOL, Close
from shim.core.wire import Position

MAX_FRAME_BYTES: Final = 8 * 1_048_576  # 1 MiB of payload (contract 4.2) as base64 or with JSON escapes, and room

type Way = tuple[str, Address, dict[str, Any]]
"""A URL, where it leads, and the options of `websockets`."""

logger = logging.getLogger(__name__)
_random: Final = SystemRandom().random


class BaseClient:
    """Set-up and state of a client; use `Client` or `AsyncClient`.

    Args:
        endpoint: URL of the discovery endpoint, `http(s)://…/endpoint`. facility: the facility to connect to.
        url: a fixed `ws(s)://…` URL instead of discovery. A move leads away from it all the same (contract 8.3); when
            that connection is lost, the client comes back to the fixed URL.
        protocol: `"v1"` (positions, resume, acks) or `"raw"` (bare payloads, what ws4redis clients speak).
        cookies: sent with every request, `{"sessionid": …}`; what the server sets is added. headers: likewise.
        params: added to the WebSocket URL, as `("subscribe-user", "echo")` (contract 1.3, 6.5).
        positions: where to continue, as `positions` of an earlier client (contract 5.3).
        connect_timeout: seconds for each step of one attempt: discovery, the handshake, `ready`.
        open_timeout: seconds for which opening waits for the first connection; 0 does not wait for it.
        on_event: called with each event (`shim.client.events`), in order, one at a time, by a thread or task of the
            client's own, which waits for it; it must not block. Events can run ahead of messages that were not taken
            yet. What it raises is logged.
        ssl_context: for https and wss; None is `ssl.create_default_context()`.
        max_frame_bytes: the longest frame taken or sent; a longer one ends the client with 1009.
        buffer_messages, buffer_bytes: messages that may wait to be taken; then the socket is not read.
        random, clock: a number in [0, 1); seconds of a monotonic clock.

    Raises:
        DiscoveryError: the URL is none. ValueError: arguments that contradict each other.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        facility: str | None = None,
        url: str | None = None,
        protocol: Literal["v1", "raw"] = "v1",
        cookies: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        params: Sequence[str] = (),
        positions: Mapping[str, Position] | None = None,
        connect_timeout: float = 10.0,
        open_timeout: float = 30.0,
        on_event: Callable[[Event], object] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        max_frame_bytes: int = MAX_FRAME_BYTES,
        buffer_messages: int = MAX_MESSAGES,
        buffer_bytes: int = MAX_BYTES,
        random: Callable[[], float] = _random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if url is None and (endpoint is None or not facility):
            raise ValueError("give the endpoint and a facility, or url=")
        if url is not None and (endpoint is not None or facility is not None):
            raise ValueError("url= is instead of the endpoint and the facility, which it names itself")
        if protocol not in ("v1", "raw"):
            raise ValueError(f'protocol is "v1" or "raw", not {shown(protocol)}')
        if isinstance(params, str):
            raise TypeError(f'params is a sequence of texts, as ("{params}",)')
        for name, value in (headers or {}).items():
            if name.lower() in ("cookie", "host", "connection") or any(c in name + value for c in "\r\n"):
                raise ValueError(f"not a header to give: {shown(name)}; for cookies there is cookies=")
        if not 0 < connect_timeout <= 600 or not 0 <= open_timeout <= 86_400:
            raise ValueError(f"time-outs out of range: {connect_timeout!r} (over 0), {open_timeout!r} seconds")
        self.cookies = Cookies(cookies)
        self._endpoint = endpoint or ""
        self._endpoint_address = Address.of(endpoint, HTTP) if endpoint is not None else None
        self._facility = facility or ""
        self._url = url
        if url is not None:
            Address.of(url, WEBSOCKET)
        self._v1 = protocol == "v1"
        self._headers = dict(headers or {})
        self._params = tuple(params)
        self._connect_timeout = connect_timeout
        self._open_timeout = open_timeout
        self._on_event = on_event
        self._ssl_context = ssl_context
        self._max_frame_bytes = max_frame_bytes
        self._clock = clock
        self._session = Session(v1=self._v1, random=random, positions=positions, ready_timeout=connect_timeout)
        self._inbox = Inbox(positions or {}, messages=buffer_messages, size=buffer_bytes)
        self._target = url or self._endpoint
        self._last_id = 0
        self._closing = False
        self._prepare()

    def _prepare(self) -> None:
        """Make what only one of the twins has."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._facility or self._url} {self.state} {self.backend}>"

    @property
    def state(self) -> State:
        """Where the client is: connecting, open, waiting to try again."""
        return self._session.state

    @property
    def connected(self) -> bool:
        """Whether messages can come and be sent."""
        return self._session.state is State.OPEN

    @property
    def backend(self) -> str | None:
        """The backend of the present or the last connection: `legacy` or `channels`."""
        return self._session.backend

    @property
    def connection_id(self) -> str | None:
        """The server's id of the present or the last connection; None on raw."""
        return self._session.connection

    @property
    def positions(self) -> Mapping[str, Position]:
        """Of each topic, the position of the last message that the application has taken, or that the server told.

        Give it to another client to continue exactly there (contract 5.3).
        """
        return dict(self._inbox.positions)

    @property
    def counters(self) -> Counters:
        """What has happened so far, as a copy."""
        return replace(self._session.counters)

    @property
    def duplicates_dropped(self) -> int:
        """Messages that came again and were dropped; 0 in a right system (contract 3.1)."""
        return self._session.counters.duplicates_dropped

    @property
    def holes(self) -> int:
        """Messages that left out a `seq` without a `gap`; 0 in a right system (contract 3.1, 7.4)."""
        return self._session.counters.holes

    @property
    def error(self) -> ClientError | None:
        """Why the client has given up; None while it has not, and after `close`."""
        return self._session.error

    # The steps that both shells take

    @property
    def _over(self) -> bool:
        return self._closing or self._session.state is State.CLOSED

    @property
    def _opening_is_over(self) -> bool:
        return self._over or self._session.ever_open

    def _check_opened(self) -> None:
        if self._session.ever_open or self._open_timeout == 0:
            return
        if self._session.error is not None:
            raise self._session.error
        raise NotConnected(
            f"no connection to {self._endpoint or self._url} within {self._open_timeout:g} s; "
            f"last: {self._session.failure}"
        )

    def _ended(self) -> ClientError:
        if self.state is State.IDLE:
            return NotConnected("not opened yet: use `with`, or call open()")
        return self._session.error or ConnectionClosed(Close.NORMAL, "closed by this client")

    def _request(self) -> bytes:
        self._target = self._endpoint
        return request_for(self._endpoint, self._facility, self._request_headers())

    def _request_headers(self) -> dict[str, str]:
        return {**self._headers, **self.cookies.headers()}

    def _discovered(self, data: bytes, address: Address) -> None:
        answer = read_answer(data, self._endpoint)
        self.cookies.learn(answer.headers.get_all("Set-Cookie") or ())
        endpoint: Endpoint = read_endpoint(answer, self._endpoint, tls=address.tls, v1=self._v1)
        self._session.found(endpoint.backend, endpoint.reconnect)
        self._target = endpoint.url

    def _way(self, dial: Dial) -> Way:
        """Where a move leads, and how long it may take.

        Raises:
            DiscoveryError: it leads nowhere. TimeoutError: there is no time left.
        """
        address = Address.of(dial.url, WEBSOCKET)
        if not address.tls and self._session.url.startswith("wss:"):
            raise DiscoveryError("a move from wss has to lead to wss, or cookies would travel in clear", url=dial.url)
        left = dial.deadline - self._clock()
        if left <= 0:
            raise TimeoutError("no time is left")
        return self._handshake(dial.url, min(left, self._connect_timeout))

    def _handshake(self, target: str, seconds: float) -> Way:
        url = with_params(target, self._params)
        options: dict[str, Any] = {
            "additional_headers": self._request_headers(),
            "subprotocols": [Subprotocol(SUBPROTOCOL)] if self._v1 else None,
            "compression": None,  # costs a server some 300 KiB a connection, and it is off there
            "open_timeout": seconds,
            "close_timeout": CLOSE_TIMEOUT,
            "ping_interval": None,  # the session watches, with one ping only where it is needed
            "max_size": self._max_frame_bytes,
            "max_queue": MAX_QUEUED_FRAMES,
            "proxy": None,
        }
        return url, Address.of(url, WEBSOCKET), options

    def _greeted(self, link: int, url: str, headers: Headers | None, subprotocol: str | None) -> list[Effect]:
        """The handshake is done, with these headers in the answer."""
        self._learn(headers)
        if self._v1 and subprotocol != SUBPROTOCOL:
            reason = f"{url} does not speak {SUBPROTOCOL}: is it a realtime shim URL?"
            if link != self._session.link:
                return self._session.not_moved(link, reason)
            return self._session.failed(reason)
        return self._session.opened(self._clock(), url, link)

    def _learn(self, headers: Headers | None) -> None:
        self.cookies.learn(headers.get_all("Set-Cookie") if headers is not None else ())

    def _failed(self, error: Exception) -> list[Effect]:
        failure = self._why(error, self._target)
        return self._session.failed(
            failure.reason, status=failure.status, retry_after=failure.retry_after, error=failure.error
        )

    def _not_moved(self, dial: Dial, error: Exception) -> list[Effect]:
        return self._session.not_moved(dial.link, self._why(error, dial.url).reason)

    def _why(self, error: Exception, target: str) -> Failure:
        response = getattr(error, "response", None)
        if response is not None:
            self._learn(response.headers)
        return failure_of(error, target, ever_open=self._session.ever_open)

    def _heard(self, link: int, data: str | bytes) -> list[Effect]:
        """Something has come: keep the messages, return what is left to do."""
        return self._keep(self._session.received(data, self._clock(), link), len(data))

    def _keep(self, effects: Iterable[Effect], size: int = 0) -> list[Effect]:
        rest: list[Effect] = []
        for effect in effects:
            if not isinstance(effect, (Deliver, Settle)):
                rest.append(effect)
            elif not self._closing:
                self._inbox.put(effect, size)
        return rest

    def _may_read(self, link: int) -> bool:
        """Whether there is room for a message; a connection beside the present one has other things to say as well."""
        return not self._inbox.full or self._over or link != self._session.link

    def _patience(self, link: int) -> float | None:
        deadline = self._session.due(link)
        return None if deadline is None else max(deadline - self._clock(), 0.0)

    def _tell(self, event: Event) -> None:
        if self._on_event is not None:
            try:
                self._on_event(event)
            except Exception:
                logger.exception("on_event raised for %r", event)

    def _outgoing(self, value: object, *, awaited: bool) -> tuple[int, str | bytes]:
        message = Message.of(value)
        if awaited and not self._v1:
            raise ValueError('only realtime.v1 has acks: protocol="raw" cannot wait for one')
        self._last_id += 1
        if self._v1:
            return self._last_id, send_frame(self._last_id, message, self._max_frame_bytes)
        body = message.body(self._max_frame_bytes)
        return self._last_id, body if message.kind is Kind.BINARY else body.decode()

    def _sending(self, id: int, *, awaited: bool) -> None:
        """A message goes out on the present connection."""
        link = self._session.link
        if self._v1:
            self._session.acks.sent(link)
        if awaited:
            self._session.acks.expect(id, link)

    def _check_outcome(self, id: int, seconds: float) -> None:
        match self._session.acks.outcome(id):
            case Ack():
                return
            case Refusal(_, code, reason):
                raise SendRefused(code, reason)
            case Lost(code, reason):
                raise NotConnected(f"the connection ended before the ack of message {id}: {code} {reason}")
            case None:
                raise TimeoutError(f"no ack of message {id} within {seconds:g} s")

    def _take(self) -> Received | None:
        return None if self._closing else self._inbox.take()
