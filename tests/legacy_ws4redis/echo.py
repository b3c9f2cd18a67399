"""The WSGI application that the transport's tests serve: it echoes, and lets a test look at and steer its connections.

`/ws/<name>` is a WebSocket. `/control/<name>/<verb>?…` answers with JSON about the connection of that name, or does
something to it from another thread, as publishers and timers do in the real application.
"""

import _thread
import json
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from websockets.frames import Frame, Opcode

from legacy_ws4redis import outbox
from legacy_ws4redis.transport import NoSocket, Refused, Transport

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

MAX_MESSAGE = 1_048_576
MAX_BACKLOG = 1_048_576
CLOSE_TIMEOUT = 2.0
PATIENCE = 10.0

setattr(outbox, "CLOSE_TIMEOUT", CLOSE_TIMEOUT)  # noqa: B010  # a Final elsewhere; the tests cannot wait 5 s each time

transports: dict[str, Transport] = {}
ended: dict[str, threading.Event] = {}


def frame(message: str | bytes) -> bytes:
    """A server's frame."""
    if isinstance(message, str):
        return Frame(Opcode.TEXT, message.encode()).serialize(mask=False)
    return Frame(Opcode.BINARY, message).serialize(mask=False)


def application(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    """Serve a WebSocket or a control request."""
    _, kind, name, *rest = environ["PATH_INFO"].split("/")
    if kind == "ws":
        return websocket(environ, start_response, name)
    answer = VERBS[rest[0]](name, dict(parse_qsl(environ["QUERY_STRING"])))
    return respond(start_response, "200 OK", json.dumps(answer))


def respond(start_response: "StartResponse", status: str, body: str) -> Iterable[bytes]:
    """An ordinary response."""
    data = body.encode()
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(data)))])
    return [data]


def websocket(environ: "WSGIEnvironment", start_response: "StartResponse", name: str) -> Iterable[bytes]:
    """Echo until the end. The message `sleep` keeps the handler busy until `/control/<name>/wake`."""
    try:
        transport = Transport(environ, max_message=MAX_MESSAGE, max_backlog=MAX_BACKLOG)
        ended[name], transports[name] = threading.Event(), transport
        if environ["QUERY_STRING"] == "greet":
            transport.send(frame("before the handshake"))
        transport.accept(
            start_response,
            subprotocol=environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL"),
            headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")],
        )
    except Refused as error:
        return respond(start_response, f"{error.status} Refused", error.reason)
    except NoSocket as error:
        return respond(start_response, "500 No Socket", str(error))
    if transport.outlives_request:
        _thread.start_new_thread(echo, (name, transport))
        return ()
    return echo(name, transport)


def echo(name: str, transport: Transport) -> Iterable[bytes]:
    """Send back what comes."""
    while (message := transport.receive()) is not None:
        if message == "sleep":
            wake = wakes[name] = threading.Event()
            wake.wait(PATIENCE)
        transport.send(frame(message))
    response = transport.finish()
    ended[name].set()
    return response


wakes: dict[str, threading.Event] = {}


def _until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def _state(name: str, query: dict[str, str]) -> dict[str, Any]:
    if query.get("wait") == "reading":
        _until(lambda: transports[name].reading)
    if query.get("wait") == "sleeping":
        _until(lambda: name in wakes)
    transport, now = transports[name], time.monotonic()
    return {
        "backlog": transport.backlog,
        "reading": transport.reading,
        "silent": now - transport.last_heard,
        "code": transport.close_code,
    }


def _ended(name: str, _query: dict[str, str]) -> dict[str, Any]:
    _until(lambda: name in ended)
    finished = ended[name].wait(PATIENCE)
    return {"finished": finished, "code": transports[name].close_code, "reason": transports[name].close_reason}


def _flood(name: str, query: dict[str, str]) -> dict[str, Any]:
    """Send numbered frames from this thread; tells how long that took and what waits."""
    transport, size = transports[name], int(query["size"])
    frames = [frame(f"{number:08}".ljust(size, ".")) for number in range(int(query["n"]))]
    started = time.monotonic()
    if query.get("batch"):
        transport.send_batch(frames)
    else:
        for one in frames:
            transport.send(one)
    return {"seconds": time.monotonic() - started, "backlog": transport.backlog, "code": transport.close_code}


def _close(name: str, query: dict[str, str]) -> None:
    transports[name].close(int(query["code"]), query.get("reason", ""))


def _fds(_name: str, _query: dict[str, str]) -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


VERBS: dict[str, Callable[[str, dict[str, str]], Any]] = {
    "state": _state,
    "ended": _ended,
    "flood": _flood,
    "close": _close,
    "fds": _fds,
    "abort": lambda name, _: transports[name].abort(),
    "ping": lambda name, _: transports[name].ping(),
    "wake": lambda name, _: wakes[name].set(),
    "pid": lambda _name, _query: os.getpid(),
}
