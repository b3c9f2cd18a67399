"""uvicorn's WebSocket, held to the contract: the bytes that a client sees are those of the legacy backend.

Theory of operation. ASGI carries messages, and some of the contract is about bytes: pings, what a client is told about
a bad handshake, what becomes of messages that came before a bad frame, a client that takes nothing any more. uvicorn
lets its WebSocket protocol be replaced (`Config(ws=…)`); this one extends its `websockets-sansio` in five things.

* What the peer ends, by a close frame or a broken rule, is answered when the application has taken the messages that
  came before it, not at once: what a handler sees, and still can say, does not depend on how TCP cut the stream.
* After the last frame it waits for the peer to hang up, for `CLOSE_SECONDS`, and then cuts. Closing at once could
  destroy the close frame on its way, because a TCP that closes with unread bytes sends RST; waiting for a client that
  has stalled would hold its descriptor for as long as it likes.
* A line that just broke is 1006, and a handshake that cannot be read gets an answer (uvicorn leaves it without).
* The application may take over liveness (contract 7.1): see `channels_impl.line`.
* It takes ready frames: one that goes to many is encoded once, and uvicorn's own `send` would encode it for each.

`legacy_ws4redis/transport.py` is its twin. Consumers of other paths get uvicorn's own pings, and the rest of this.
"""

import asyncio
import socket
import struct
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final, cast

from uvicorn.config import Config
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.exceptions import ProtocolError
from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import OPEN

from channels_impl.line import EXTENSION
from channels_impl.mailbox import Gate, Mailbox
from shim.core.boundary import is_pong, size_on_wire
from shim.core.node import Refusal
from shim.core.protocol import Close as Codes
from shim.door import malformed

CLOSE_SECONDS: Final = 5.0
"""From a connection's last frame to its end, if the peer does not hang up. The legacy backend's `CLOSE_TIMEOUT`."""

MAX_ANSWERS: Final = 1_048_576
"""Bytes that may wait in the transport when a ping is answered: the client asks, and does not listen (contract 7.2)."""

_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s
_END_OF_HEAD: Final = b"\r\n\r\n"
_UNKNOWN: Final = 1 << 62  # bytes; what is compressed is not as long as what the parser makes of it
_PING: Final = Frame(Opcode.PING, b"").serialize(mask=False)


class RealtimeProtocol(WebSocketsSansIOProtocol):
    """One connection; uvicorn makes it, with the arguments of its own."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.queue = cast("Any", Mailbox())  # in place of four kilobytes, of which a quiet connection needs nothing
        self.writable = cast("Any", Gate())
        self.close_timeout = CLOSE_SECONDS
        self.last_heard = time.monotonic()
        self._is_taken_over = False
        self._answer: bytes | None = None  # the peer has ended it: our last frame, until the application knows
        self._is_over = False  # our last frame is on its way: whatever comes is thrown away
        self._partial = bytearray()  # a message of which the end has not come
        self._begun = 0  # bytes of a frame of which the end has not come: see `shim.core.boundary`
        self._eof = False  # the peer has hung up, and may still read

    # Coming in

    def data_received(self, data: bytes) -> None:
        """Take bytes: messages that came before a bad frame count."""
        self.last_heard = time.monotonic()
        if self._is_over or self._answer is not None:
            return
        if not self._begun and is_pong(data):
            return  # the answer to a heartbeat: it has been heard, and says no more (contract 7.1)
        if not self.handshake_initiated and (refusal := _look(data)) is not None:
            self._refuse(refusal)
            return
        self._begun += len(data) - (0 if self.handshake_initiated else data.find(_END_OF_HEAD) + len(_END_OF_HEAD))
        self.conn.receive_data(data)
        self.handle_events()

    def handle_events(self) -> None:
        """Understand what came."""
        for event in self.conn.events_received():
            if isinstance(event, Request):
                self.handle_connect(event)
            elif isinstance(event, Frame):
                self._begun -= size_on_wire(len(event.data))
                if self._answer is None:
                    self._take(event)
        if not self.handshake_initiated:
            if self.conn.handshake_exc is not None:
                self._refuse(Refusal(400, f"{self.conn.handshake_exc}"))
            return
        answer = b"".join(self.conn.data_to_send())
        if self._answer is not None:
            return
        if self.conn.parser_exc is None and self.conn.close_rcvd is None:
            self._write(answer)
            if answer and (waits := self.transport.get_write_buffer_size()) > MAX_ANSWERS:
                code, reason = Codes.TOO_SLOW, f"{waits} bytes wait"
                self._end(_close_frame(code, reason), code, reason)
        elif self.close_sent:
            self._hang_up(answer)
        else:
            # `parser_exc`: our 1002, 1007 or 1009, even when the peer's close frame was what broke the rule.
            close = self.conn.close_sent if self.conn.parser_exc is not None else self.conn.close_rcvd
            self._end(answer, *((int(close.code), close.reason) if close else (CloseCode.PROTOCOL_ERROR, "")))

    def handle_connect(self, event: Request) -> None:
        """Refuse what the parser refuses with the status and the words of contract 1.1, else ask the application."""
        response = self.conn.accept(event)
        if response.status_code != 101:
            status = 426 if response.status_code == 426 else 400
            self._refuse(Refusal(status, f"{self.conn.handshake_exc}"))
            return
        super().handle_connect(event)
        if self.conn.extensions:
            self._begun = _UNKNOWN
        extensions = cast("dict[str, Any]", self.scope["extensions"])
        extensions[EXTENSION] = {"line": self}

    def send_receive_event_to_app(self) -> None:
        """A message is whole; bad UTF-8 is 1007, and no news for the log."""
        if self.curr_msg_data_type == "text":
            try:
                self.frames[0].decode()
            except UnicodeDecodeError as error:
                self.frames = []
                code, reason = CloseCode.INVALID_DATA, f"{error.reason} at position {error.start}"
                self._end(_close_frame(code, reason), code, reason)
                return
        super().send_receive_event_to_app()

    def eof_received(self) -> bool | None:  # type: ignore[override]  # uvicorn's never keeps it
        """Keep our half of the connection: what the peer said before it hung up may still be answered."""
        if self.close_sent or not self.handshake_complete or self.scheme == "wss":
            return None
        self._eof = True
        if self._answer is None:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": CloseCode.ABNORMAL_CLOSURE})
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Say 1006 where the peer did not say goodbye (uvicorn says 1005)."""
        if not self._eof:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": CloseCode.ABNORMAL_CLOSURE})
        super().connection_lost(exc)

    def _take(self, frame: Frame) -> None:
        match frame.opcode:
            case Opcode.TEXT | Opcode.BINARY:
                self.curr_msg_data_type = "text" if frame.opcode is Opcode.TEXT else "bytes"
                if frame.fin:
                    self.frames = [bytes(frame.data)]
                    self.send_receive_event_to_app()
                else:
                    self._partial = bytearray(frame.data)
            case Opcode.CONT:
                # One growing buffer, not a list of fragments: there may be as many as the client likes.
                self._partial += frame.data
                if frame.fin:
                    self.frames, self._partial = [bytes(self._partial)], bytearray()
                    self.send_receive_event_to_app()
            case Opcode.PONG:
                self.handle_pong(frame)
            case _:
                pass  # the parser has the answer to a ping and to a close frame ready

    # Going out

    async def receive(self) -> Any:
        """Give the application the next event; with the last one, answer the peer."""
        event = await super().receive()
        if event["type"] == "websocket.disconnect" and self._answer is not None:
            self._hang_up(self._answer)
        return event

    async def send(self, message: Any) -> None:
        """Send, also while the answer to the peer's close frame waits."""
        await self.writable.wait()
        kind = message["type"]
        if self._answer is None and not self._is_over:
            await super().send(message)
            if kind == "websocket.accept":
                del self.request, self.response  # 3 KiB that nobody reads any more; the scope has the headers, too
            if kind == "websocket.close" and self.close_timer is not None:
                self._cut_later()  # uvicorn's timer would wait for a client that takes nothing
            elif kind == "websocket.http.response.body" and self.close_sent:
                self.handshake_complete = True  # or uvicorn logs an error for each refusal
        elif self._answer is None or self.disconnected:
            raise ClientDisconnected
        elif kind == "websocket.send":
            text, data = message.get("text"), message.get("bytes")
            frame = Frame(Opcode.TEXT, text.encode()) if data is None else Frame(Opcode.BINARY, data)
            self._write(frame.serialize(mask=False))
        elif kind == "websocket.close":
            self._hang_up(_close_frame(message.get("code", 1000), message.get("reason") or ""))

    def start_keepalive(self) -> None:
        """Ping as uvicorn is told to, where the application does not."""
        if not self._is_taken_over:
            super().start_keepalive()

    # The line: see `channels_impl.line.Line`

    def take_over(self) -> None:
        """From now on uvicorn does not ping."""
        self._is_taken_over = True
        self.stop_keepalive()

    def write(self, frame: bytes) -> bool:
        """Send a ready frame, unless the socket is full or the connection ends."""
        if (
            self.conn.state is not OPEN
            or self._answer is not None
            or self._is_over
            or self.disconnected
            or not self.writable.is_set()
            or self.transport.is_closing()
        ):
            return False
        self.transport.write(frame)
        return True

    def ping(self) -> None:
        """Send a ping."""
        if self.conn.state is OPEN and self._answer is None:
            self._write(_PING)

    def cut(self) -> None:
        """End the connection now, and throw away what the kernel still holds for it (RST)."""
        connected = self.transport.get_extra_info("socket")
        if connected is not None and not self.transport.is_closing():
            with suppress(OSError):  # already disconnected
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    # Ending

    def _end(self, answer: bytes, code: int, reason: str) -> None:
        """The peer has ended it: the application learns it after what came before."""
        self._answer = answer
        self.stop_keepalive()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})

    def _hang_up(self, last: bytes) -> None:
        if self._is_over:
            return
        self._is_over = self.close_sent = True
        self._answer = None
        self._write(last)
        if self.transport.is_closing():
            return
        if self._eof or not self.transport.can_write_eof():
            self.transport.close()
        else:
            self.transport.write_eof()
        if self.read_paused:  # to see the peer hang up
            self.read_paused = False
            self.transport.resume_reading()
        self._cut_later()

    def _cut_later(self) -> None:
        if self.close_timer is not None:
            self.close_timer.cancel()
        self.close_timer = self.loop.call_later(CLOSE_SECONDS, self.cut)

    def _refuse(self, refusal: Refusal) -> None:
        self.handshake_initiated = self.handshake_complete = True
        response = self.conn.reject(refusal.status, refusal.reason)
        self._hang_up(response.serialize())

    def _write(self, data: bytes) -> None:
        if data and not self.transport.is_closing():
            self.transport.write(data)


def _look(head: bytes) -> Refusal | None:
    """What is wrong with a request's head that `websockets` would not say; uvicorn gives it in one piece."""
    request, *lines = head.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    return malformed(request.partition(" ")[0], _fields(lines))


def _fields(lines: Iterable[str]) -> dict[str, str]:
    return {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _close_frame(code: int, reason: str) -> bytes:
    cut = reason.encode()[:123].decode(errors="ignore")  # RFC 6455, section 5.5: 125 bytes in all
    try:
        return Frame(Opcode.CLOSE, Close(code, cut).serialize()).serialize(mask=False)
    except ProtocolError as error:
        raise ValueError(f"a close frame must not carry the code {code!r} (RFC 6455 section 7.4)") from error
