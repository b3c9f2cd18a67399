"""Clients: one that behaves (`websockets`), and one that sends whatever bytes it likes."""

import json
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.integration.contract.cluster import PATIENCE, Answer, Place
from tests.legacy_ws4redis.rawclient import BINARY, CLOSE, CONT, HANDSHAKE, PING, PONG, TEXT, RawClient, frame

V1 = Subprotocol("realtime.v1")


@contextmanager
def raw(
    place: Place, facility: str = "contract", *, headers: Mapping[str, str] | None = None, **query: object
) -> Iterator[ClientConnection]:
    """A raw client that behaves."""
    with opened(place.url(facility, **query), headers=headers) as websocket:
        yield websocket


@contextmanager
def v1(
    place: Place,
    facility: str = "contract",
    *,
    resume: Mapping[str, object] | None = None,
    was: str | None = None,
    headers: Mapping[str, str] | None = None,
    **query: object,
) -> Iterator[tuple[ClientConnection, dict[str, Any]]]:
    """A v1 client that behaves, and the `ready` it got."""
    with opened(place.url(facility, **query), headers=headers, subprotocols=[V1]) as websocket:
        websocket.send(json.dumps({"op": "hello", "resume": resume or {}, "was": was}))
        ready = json.loads(websocket.recv(PATIENCE))
        assert ready["op"] == "ready", ready
        yield websocket, ready


def opened(url: str, *, headers: Mapping[str, str] | None = None, **options: Any) -> ClientConnection:
    """A WebSocket of `websockets`, open."""
    websocket: ClientConnection = connect(
        url,
        open_timeout=PATIENCE,
        close_timeout=5,
        ping_interval=None,
        proxy=None,
        max_size=None,
        additional_headers=dict(headers or {}),
        **options,
    )
    return websocket


def said(websocket: ClientConnection) -> Any:
    """The next v1 frame; pings are answered and passed over."""
    while True:
        got = json.loads(websocket.recv(PATIENCE))
        if got["op"] != "ping":
            return got
        websocket.send('{"op":"pong"}')


def end_of(websocket: ClientConnection) -> tuple[int | None, str | None]:
    """Read up to the end: the close code and reason that came, None without a close frame."""
    try:
        while True:
            websocket.recv(PATIENCE)
    except ConnectionClosed as closed:
        return (None, None) if closed.rcvd is None else (closed.rcvd.code, closed.rcvd.reason)


def refused(
    place: Place, facility: str = "contract", *, headers: Mapping[str, str] | None = None, **query: object
) -> Answer:
    """How a handshake is refused."""
    try:
        with raw(place, facility, headers=headers, **query):
            raise AssertionError("the handshake was accepted")
    except InvalidStatus as error:
        response = error.response
        return Answer(
            response.status_code, {k.lower(): v for k, v in response.headers.raw_items()}, bytes(response.body or b"")
        )


class Wire(RawClient):
    """A client that sends whatever bytes it likes."""

    def __init__(self, place: Place, *, receive_buffer: int | None = None) -> None:
        super().__init__(place.port, receive_buffer=receive_buffer)
        self.socket.settimeout(PATIENCE)

    def send_handshake(self, path: str) -> None:
        """Ask for a WebSocket, and do not wait for the answer."""
        self.send("\r\n".join([f"GET {path} HTTP/1.1", *(f"{k}: {v}" for k, v in HANDSHAKE.items()), "", ""]).encode())

    def ask(
        self,
        path: str,
        headers: Mapping[str, str | None] | None = None,
        *,
        method: str = "GET",
        version: str = "HTTP/1.1",
        after: bytes = b"",
    ) -> Answer:
        """Send a handshake, changed by `headers` (None: left out), and read the answer; a refusal's body too."""
        fields = {**HANDSHAKE, **(headers or {})}
        lines = [f"{method} {path} {version}", *(f"{k}: {v}" for k, v in fields.items() if v is not None), "", ""]
        self.send("\r\n".join(lines).encode("latin-1") + after)
        head = self.head().decode("latin-1").split("\r\n")
        status = int(head[0].split(" ")[1])
        answered = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}
        body = b""
        if status != 101 and method != "HEAD":
            body = self._exactly(int(answered["content-length"])) if "content-length" in answered else self.rest()
        return Answer(status, answered, body)

    def opened(self, path: str, *, protocol: str | None = None) -> "Wire":
        """Open the WebSocket."""
        answer = self.ask(path, {"Sec-WebSocket-Protocol": protocol})
        assert answer.status == 101, answer
        return self

    def close(self) -> None:
        """End with FIN."""
        self.__exit__()

    @property
    def port(self) -> int:
        """Our own port."""
        port: int = self.socket.getsockname()[1]
        return port

    def hello(self) -> "Wire":
        """Say hello, and read `ready`."""
        self.send(frame(TEXT, b'{"op":"hello"}'))
        assert b'"ready"' in self.read()[1]
        return self

    def rest(self) -> bytes:
        """Everything up to the end of the stream."""
        return self._stream.read()

    def end(self) -> int | None:
        """Read up to the end of the stream: the close frame's code, 1005 if it was empty, None if there was none.

        A close frame is answered, as a good client does.
        """
        code = None
        try:
            while True:
                opcode, payload = self.read()
                if opcode == CLOSE:
                    with suppress(OSError):
                        self.send(frame(CLOSE, payload))
                    code = struct.unpack("!H", payload[:2])[0] if payload else 1005
        except (EOFError, ConnectionResetError):
            return code


def close_frame(code: int | None = None, reason: bytes = b"") -> bytes:
    """A client's close frame."""
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason)


__all__ = [
    "BINARY",
    "CLOSE",
    "CONT",
    "PING",
    "PONG",
    "TEXT",
    "V1",
    "Wire",
    "close_frame",
    "end_of",
    "frame",
    "opened",
    "raw",
    "refused",
    "said",
    "v1",
]
