"""The WSGI application: WebSockets are served here, everything else by the application that it wraps.

```python
application = WebsocketApplication(get_wsgi_application())
```

A connection's life is one thread's (greenlet's): refuse or enter, then read, feed, perform until it ends. Where the
server can do without its request from there on (uWSGI with gevent), that is a greenlet of the connection's own: a
request that waits costs more than all that we keep of a connection.

`channels_impl/consumer.py` is its twin.
"""

import _thread
import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from http import HTTPStatus
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from legacy_ws4redis import stop
from legacy_ws4redis.backend import LegacyBackend
from legacy_ws4redis.handshake import RUNSERVER, NoSocket, Refused, server
from legacy_ws4redis.process import Process, drain, longest_drain, process
from legacy_ws4redis.transport import Transport
from shim import probes
from shim.conf import conf
from shim.core.connection import Connection as CoreConnection
from shim.core.connection import Effect, End, Handle, Join, Ping
from shim.core.errors import RealtimeUnavailable
from shim.core.history import ReadResult
from shim.core.message import Message
from shim.core.node import Refusal
from shim.core.protocol import Close, Frame, Protocol, frame_limit
from shim.core.wire import Position
from shim.door import (
    NOT_AN_UPGRADE,
    Handshake,
    connection_of,
    crowded,
    identified,
    look,
    malformed,
    refusal_of,
    wants_websocket,
)
from shim.doorway import Crowded, doorway
from shim.facility import Facility, topics_of
from shim.handlers import call, call_at_door, log_failure, settled
from shim.routing import reply_to
from shim.visitor import Connection

logger = logging.getLogger("realtime")


class WebsocketApplication:
    """A WSGI application with WebSockets under `REALTIME_WS_PATH`, and another application everywhere else."""

    def __init__(self, application: WSGIApplication) -> None:
        """Wrap an application, usually Django's `get_wsgi_application()`."""
        self._application = application
        stop.hold(drain, longest_drain, is_loading=True)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request; a WebSocket is served until it ends."""
        handshake = handshake_of(environ)
        if not wants_websocket(handshake, conf()):
            if (answer := probes.answer(handshake.path)) is None:
                return self._application(environ, start_response)
            return _say(start_response, answer.status, answer.word, probes.HEADERS)
        served, is_here = process(), True
        served.come()
        try:
            visit = _entered(served, environ, start_response, handshake)
            if isinstance(visit, Refusal):
                return _refused(visit, environ, start_response)
            if not visit.outlives_request:
                return visit.serve()
            _thread.start_new_thread(visit.serve_alone, ())
            is_here = False
        finally:
            if is_here:
                served.go()
        forget_client = server(environ).forget_client
        del visit, handshake, environ, start_response  # of the request that waits: it has nobody's
        served.hold_server(forget_client)
        return ()


def handshake_of(environ: WSGIEnvironment) -> Handshake:
    """The handshake in a WSGI request."""
    path = f"{environ.get('SCRIPT_NAME', '')}{environ.get('PATH_INFO', '')}"
    headers = {name: str(environ[key]) for key in environ if (name := _header(key)) is not None}
    if environ.get("CONTENT_LENGTH"):
        headers["content-length"] = environ["CONTENT_LENGTH"]
    path = path.encode("latin-1").decode(errors="replace")
    return Handshake(
        path,
        environ.get("QUERY_STRING", ""),
        headers,
        environ["wsgi.url_scheme"] == "https",
        environ.get("REMOTE_ADDR", ""),
    )


@lru_cache(maxsize=256)
def _header(key: str) -> str | None:
    """The name of the header that a key of the environment stands for."""
    return key[5:].replace("_", "-").lower() if key.startswith("HTTP_") else None


def _refused(refusal: Refusal, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    headers = [("Content-Type", "text/plain; charset=utf-8"), *refusal.headers()]
    if refusal.status == HTTPStatus.UPGRADE_REQUIRED and RUNSERVER not in environ:  # wsgiref takes no hop-by-hop header
        headers.append(("Upgrade", "websocket"))
    return _say(start_response, refusal.status, refusal.reason, headers)


def _say(start_response: StartResponse, status: int, words: str, headers: Iterable[tuple[str, str]]) -> Iterable[bytes]:
    body = words.encode()
    start_response(f"{status} {HTTPStatus(status).phrase}", [*headers, ("Content-Length", str(len(body)))])
    return [body]


def _entered(
    served: Process, environ: WSGIEnvironment, start_response: StartResponse, handshake: Handshake
) -> "_Visit | Refusal":
    """Everything up to acceptance, in the order of contract 1: what costs nothing first."""
    settings = conf()
    if not handshake.is_upgrade:
        return NOT_AN_UPGRADE
    if (refusal := malformed(environ["REQUEST_METHOD"], handshake.headers)) is not None:
        return refusal
    try:
        transport = Transport(environ, max_message=frame_limit(settings.max_message), max_backlog=settings.max_backlog)
    except Refused as refused:
        return Refusal(refused.status, refused.reason)
    except NoSocket as error:
        logger.error("%s", error)  # noqa: TRY400  # a setting of the deployment: a traceback would not help
        return Refusal(500, "this server offers no WebSocket")
    with served.lock:
        found = look(handshake, served.node, settings, time.monotonic())
    if isinstance(found, Refusal):
        return found
    try:
        visitor: Connection | Refusal = doorway.ask(identified, handshake, found, LegacyBackend.cohort, settings)
    except Crowded:
        return crowded(served.node)
    if isinstance(visitor, Refusal):
        return visitor
    core = None
    try:
        visitor.audiences = tuple(call_at_door(found.audiences, visitor))
        confirmed = threading.Event()
        sink = _Sink(transport, confirmed.set)
        core = connection_of(
            visitor,
            topics_of(visitor, visitor.audiences),
            sink,
            handshake=handshake,
            node=served.node,
            conf=settings,
            pings=True,
            now=time.monotonic(),
            random=random.random(),
        )
        reply = reply_to(handshake, visitor, served.node, settings)
        quickly = reply.tally is not None and reply.is_quick(served.bus.execute(*reply.tally))
        served.subscribe(core, confirmed)
        # A raw client counts on what is published as soon as it sees the handshake's end, and of the past it gets one
        # message alone: so its past is read before that (contract 2.1). A v1 client waits for `ready`.
        past = served.read_past(core, {}) if core.protocol is Protocol.RAW else None
        transport.accept(start_response, subprotocol=visitor.subprotocol, headers=reply.headers)
    except Exception as error:  # noqa: BLE001  # whatever it is becomes a refusal
        if core is not None:
            served.leave(core, Close.ABNORMAL)
        if isinstance(error, Refused):
            return Refusal(error.status, error.reason)
        return refusal_of(error, visitor, served.node)
    return _Visit(served, found, visitor, core, transport, past, quickly)


class _Sink:
    """`shim.core.member.Sink` on a transport."""

    def __init__(self, transport: Transport, confirmed: Callable[[], None]) -> None:
        self._transport = transport
        self._confirmed: Callable[[], None] | None = confirmed  # once: it is not kept for the connection's life

    @property
    def last_heard(self) -> float:
        return self._transport.last_heard

    def send(self, frame: Frame) -> None:
        self._transport.send(frame.wire)

    def send_batch(self, frames: Sequence[Frame]) -> None:
        self._transport.send_batch([frame.wire for frame in frames])

    def ping(self) -> None:
        self._transport.ping()

    def close(self, code: int, reason: str) -> None:
        self._transport.close(code, reason)

    def subscribed(self) -> None:
        if self._confirmed is not None:
            self._confirmed()
            self._confirmed = None


class _Visit:
    """One accepted connection, served by the thread that calls `serve`."""

    def __init__(
        self,
        served: Process,
        found: Facility,
        visitor: Connection,
        core: CoreConnection,
        transport: Transport,
        past: Iterable[ReadResult] | None,
        quickly: bool,
    ) -> None:
        self._process = served
        self._facility = found
        self._visitor = visitor
        self._core = core
        self._transport = transport
        self._past = past
        self._quickly = quickly

    @property
    def outlives_request(self) -> bool:
        """Whether it is served by a greenlet of its own, and the server gets its request back.

        That greenlet's stack begins at `serve_alone`; a request's has uWSGI's frames below it, 3 KiB to keep for each,
        beside its buffers and its environment.
        """
        return self._transport.outlives_request

    def serve_alone(self) -> None:
        """Serve it where no server waits for its end."""
        try:
            self.serve()
        except Exception:
            logger.exception("serving %r failed", self._core)
        finally:
            self._process.go()

    def serve(self) -> Iterable[bytes]:
        """Serve it to its end; returns what the server sends then: nothing."""
        core, transport = self._core, self._transport
        self._visitor.open(core.sink.send, self._close, partial(self._process.keep, core))
        try:
            self._perform(self._process.accepted(core, quickly=self._quickly))
            while (data := transport.receive()) is not None:
                with self._process.lock:
                    effects = core.received(data, time.monotonic())
                self._perform(effects)
        finally:
            transport.abort()  # a no-op where it has ended; where a bug brought us here, nobody may send any more
            code = self._process.leave(core, transport.close_code or Close.ABNORMAL)
            if code is not None:
                self._process.leave_state(core)
                self._disconnected(code)
                self._process.leave_state(core)  # which may have changed it
        return transport.finish()

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Handle(message, id):
                    self._handle(message, id)
                case Join(resume):
                    self._join(resume)
                case Ping():
                    self._transport.ping()
                case End(code, reason):
                    self._transport.close(code, reason)

    def _handle(self, message: Message, id: int | str | None) -> None:
        error: Exception | None = None
        try:
            call(self._facility.receive, self._visitor, message)
        except Exception as raised:  # noqa: BLE001  # whatever it is, it is this connection's alone (contract 6.2)
            error = raised
        with self._process.lock:
            effects = settled(error, id, self._core, self._visitor, self._process.node, time.monotonic())
        self._perform(effects)

    def _join(self, resume: Mapping[str, Position]) -> None:
        try:
            past = self._process.read_past(self._core, resume) if self._past is None else self._past
        except RealtimeUnavailable as error:
            logger.warning("%r cannot join, it will come again: %s", self._core, error)
            self._close(Close.OVERLOADED, "messages cannot be had just now")
        else:
            self._past = None
            self._process.attach(self._core, past, resume)

    def _close(self, code: int, reason: str) -> None:
        with self._process.lock:
            effects = self._core.close(code, reason)
        self._perform(effects)

    def _disconnected(self, code: int) -> None:
        try:
            call(self._facility.disconnected, self._visitor, code)
        except Exception as error:  # noqa: BLE001  # the connection is gone already: all that is left is to say so
            log_failure("disconnected", error, self._core, self._visitor, self._process.node)
