"""One WebSocket over a WSGI server's socket: bytes in, messages out, frames out (contract 6.3, 7.2).

Theory of operation. The thread (or greenlet) that the WSGI server gave to the request is the connection's reader: it
calls `receive` again and again, and waits there. What it reads goes through `websockets`' Sans-I/O `ServerProtocol`,
the parser that uvicorn uses for the other backend, so the two agree on what is a bad frame. The reader alone touches
the parser. Everything that is written goes through an `Outbox`, from any thread: frames that were encoded once for many
connections, and the parser's own answers (pongs, close frames).

How it ends. Whoever is first decides the code: the peer's close frame, our `close`, a broken rule, or the end of the
stream without any of these (1006). Messages that came before the peer's close frame, or before a bad frame, are handed
out first, and the answer waits for them; so what a handler sees never depends on how TCP cut the stream into segments.
After our own `close` nothing more is handed out. The reader then waits for the peer to hang up, for `CLOSE_TIMEOUT`,
because closing earlier could destroy the close frame on its way: a TCP that closes with unread bytes sends RST.

Under gevent a greenlet that always has something to read never lets others run: one client that sends without a pause
would stop a whole process. So a reader that has not waited for `TURN` gives way.
"""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final
from wsgiref.types import StartResponse, WSGIEnvironment

from websockets.exceptions import ProtocolError
from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.utils import accept_key

from legacy_ws4redis import handshake
from legacy_ws4redis.descriptor import Descriptor
from legacy_ws4redis.flusher import flusher
from legacy_ws4redis.handshake import NoSocket, Refused
from legacy_ws4redis.outbox import CLOSE_TIMEOUT, Outbox
from shim.core.boundary import is_pong, size_on_wire

__all__ = ["CLOSE_TIMEOUT", "TOO_SLOW", "NoSocket", "Refused", "Transport"]

TOO_SLOW: Final = 4001  # contract 7.2
TURN: Final = 0.005  # seconds
PAUSE: Final = 0.000_1  # seconds; gevent's sleep(0) lets greenlets in, but looks at no socket for up to 50 of them

_CONTROL_SIZE: Final = 125  # bytes in the largest control frame, RFC 6455 5.5
_REASON_SIZE: Final = _CONTROL_SIZE - 2
_TICK: Final = 900.0  # seconds; a waiting reader is woken by the socket, this is for the case that nothing wakes it
_PING: Final = Frame(Opcode.PING, b"").serialize(mask=False)


class Transport:
    """A WebSocket connection on the socket of a WSGI request.

    Use: make one, `accept`, `receive` until None, return what `finish` gives to the WSGI server. `send`, `send_batch`,
    `ping`, `close` and `abort` may be called from any thread at any time, never block and never raise for the peer's
    sake; before `accept` they queue.

    Args:
        environ: the WSGI environment of the handshake.
        max_message: bytes of a message's payload that a client may send; more closes with 1009.
        max_backlog: bytes that may wait for the client; more closes with 4001 (contract 7.2).

    Raises:
        NoSocket: the server offers no socket; nothing was written, and the request can still be answered.
        Refused: the handshake is no good, `status` and `reason` say why; nothing was written.
    """

    def __init__(self, environ: WSGIEnvironment, *, max_message: int, max_backlog: int) -> None:
        self._key = handshake.key(environ)
        self._server: handshake.Server | None = handshake.server(environ)
        self.outlives_request = self._server.lets_go
        """Whether the server may be given its request back before the connection has ended."""
        self._max_message = max_message
        self._protocol: ServerProtocol | None = None
        self._outbox = Outbox(max_backlog, flusher())
        self._descriptor: Descriptor | None = None
        self._messages: deque[str | bytes] | None = None  # an empty one takes 760 bytes
        self._partial = bytearray()
        self._partial_is_text = False
        self._begun = 0  # bytes of a frame of which the end has not come: see `shim.core.boundary`
        self._verdict: tuple[bytes, int, str] | None = None  # the peer ended it: our last frame, code, reason
        self._eof = False
        self._turn_since = 0.0
        self.last_heard = time.monotonic()
        """Monotonic time of the last byte that came, of whatever frame (contract 7.1)."""
        self.reading_since: float | None = None
        """Monotonic time since which the reader waits for bytes and there were none; None while a handler runs.

        Silence counts from the latest of this, `last_heard` and the ping: what came while a handler ran was not read.
        """

    @property
    def reading(self) -> bool:
        """Whether the reader waits for bytes, so that silence means something."""
        return self.reading_since is not None

    @property
    def backlog(self) -> int:
        """Bytes that wait for the client, without those in the kernel."""
        return self._outbox.backlog

    @property
    def close_code(self) -> int | None:
        """How it ended: the peer's code (1005 if it gave none), ours, or 1006; None while it lives."""
        return None if self._outbox.ending is None else self._outbox.ending[0]

    @property
    def close_reason(self) -> str:
        """The words that came with the code; often none."""
        return "" if self._outbox.ending is None else self._outbox.ending[1]

    def accept(
        self,
        start_response: StartResponse,
        *,
        subprotocol: str | None = None,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Write the 101, then whatever was queued before. A client that goes from now on shows in `receive`.

        Args:
            start_response: of this request.
            subprotocol: one of those that the client offered.
            headers: more for the response, such as cookies.

        Raises:
            Refused: see `handshake`, or the client has left (nobody reads the answer); nothing was written.
            ValueError: a header with characters that HTTP forbids; nothing was written.
            OSError: no descriptor left (EMFILE); nothing was written.
        """
        server = self._server
        if server is None:
            raise RuntimeError("accepted before")
        lines = handshake.response_headers(accept_key(self._key), subprotocol, headers)
        try:
            fd, early = server.take()
        except ConnectionError as error:
            raise Refused(400, "the client has left") from error
        descriptor = Descriptor(fd)
        if not early and descriptor.has_left():
            descriptor.close()
            raise Refused(400, "the client has left")
        try:
            server.respond(start_response, lines)
        except OSError:
            self._eof = True
        self._server = None  # it holds the request
        self._descriptor = descriptor
        descriptor.unblock()
        self._outbox.open(descriptor)
        self.last_heard = self._turn_since = time.monotonic()
        if early:
            self._feed(early)

    def receive(self) -> str | bytes | None:
        """The next message: str for text, bytes for binary. Waits; None when the connection has ended."""
        while True:
            if self._outbox.ending is not None:
                self._linger()
                return None
            if self._messages:
                self._give_way()
                message = self._messages.popleft()
                if not self._messages:
                    self._messages = None
                return message
            if self._verdict is not None:
                self._outbox.end(*self._verdict)
                self._outbox.half_close()
            elif data := self._read():
                self._feed(data)
            else:
                self._outbox.end(None, CloseCode.ABNORMAL_CLOSURE, "")

    def send(self, frame: bytes) -> None:
        """Send a ready frame, unmasked, in the order of the calls; goes nowhere once the connection has ended."""
        if not self._outbox.put(frame):
            reason = f"{self._outbox.backlog} bytes wait"
            self._outbox.end(_close_frame(TOO_SLOW, reason), TOO_SLOW, reason, drop=True)

    def send_batch(self, frames: Iterable[bytes]) -> None:
        """Send frames in one piece that may exceed the backlog limit (history after a resume) until it has drained."""
        self._outbox.put_batch(frames)

    def ping(self) -> None:
        """Ask for a sign of life; `last_heard` shows it."""
        self.send(_PING)

    def close(self, code: int, reason: str = "") -> None:
        """End the connection after what is queued; the reader ends within `CLOSE_TIMEOUT`. Only the first one counts.

        Args:
            code: 1000 to 1003, 1007 to 1014, or 3000 to 4999.
            reason: cut to the 123 bytes that a close frame can hold.

        Raises:
            ValueError: a code that must not be sent.
        """
        self._outbox.end(_close_frame(code, reason), code, reason)

    def abort(self) -> None:
        """End the connection now: nothing more is sent, the reader wakes up."""
        self._outbox.end(None, CloseCode.ABNORMAL_CLOSURE, "")
        self._outbox.abort()

    def finish(self) -> tuple[bytes, ...]:
        """Give the descriptor back, ending what has not ended; returns the WSGI application's iterable. Idempotent.

        The server finds a response that has been started and has no body, on a socket at its end: it writes nothing.
        """
        if self._descriptor is not None:
            self._outbox.end(None, CloseCode.ABNORMAL_CLOSURE, "")
            self._outbox.release()
        return ()

    # Reading.

    def _read(self) -> bytes:
        descriptor = self._descriptor
        if descriptor is None or self._eof:
            return b""
        try:
            self._give_way()
            data = descriptor.read_now()
        except BlockingIOError:
            data = self._wait(descriptor)
        except OSError:
            data = b""
        self._eof = not data
        return data

    def _wait(self, descriptor: Descriptor) -> bytes:
        self.reading_since = time.monotonic()
        try:
            while True:
                try:
                    return descriptor.read(_TICK)
                except TimeoutError:
                    if self._time_left() <= 0:
                        self._outbox.abort()
                        return b""
        except OSError:
            return b""
        finally:
            self.reading_since = None
            self._turn_since = time.monotonic()

    def _give_way(self) -> None:
        if time.monotonic() - self._turn_since >= TURN:
            time.sleep(PAUSE)
            self._turn_since = time.monotonic()

    def _linger(self) -> None:
        """Wait for the peer to hang up, and throw away what it says."""
        descriptor = self._descriptor
        # Its close frame may have come when ours was on its way.
        if self._protocol is not None and self._protocol.state is not OPEN:
            self._outbox.half_close()
        try:
            while descriptor is not None and not self._eof:
                if (left := self._time_left()) <= 0:
                    self._outbox.abort()
                    break
                self._give_way()
                self._notice_close(descriptor.read(left))
        except TimeoutError:
            self._outbox.abort()
        except OSError:
            pass
        self._eof = True

    def _notice_close(self, data: bytes) -> None:
        """Both sides have said it, or the peer talks nonsense: hang up."""
        if not data:
            self._eof = True
        elif (protocol := self._parser()).state is OPEN and self._verdict is None:
            protocol.receive_data(data)
            protocol.events_received()
            protocol.data_to_send()  # pongs and the answer to a close frame: our own close frame is out already
            if protocol.state is not OPEN:
                self._outbox.half_close()

    def _time_left(self) -> float:
        deadline = self._outbox.deadline
        return _TICK if deadline is None else deadline - time.monotonic()

    # Understanding.

    def _parser(self) -> ServerProtocol:
        """Made when the first bytes come that are no answer to a heartbeat: many connections never need one."""
        if self._protocol is None:
            # A control frame between fragments must not be measured by what is left of the message, as `websockets`
            # does; so it gets room for one, and the message's own limit is ours.
            self._protocol = ServerProtocol(state=OPEN, max_size=self._max_message + _CONTROL_SIZE)
        return self._protocol

    def _feed(self, data: bytes) -> None:
        self.last_heard = time.monotonic()
        if not self._begun and is_pong(data):
            return  # the answer to a heartbeat: it has been heard, and says no more (contract 7.1)
        self._begun += len(data)
        protocol = self._parser()
        protocol.receive_data(data)
        pings = 0
        for event in protocol.events_received():
            if isinstance(event, Frame):
                self._begun -= size_on_wire(len(event.data))
                if self._verdict is None:
                    pings += event.opcode is Opcode.PING
                    self._take(event)
        answers = protocol.data_to_send()
        if self._verdict is not None:  # by `_take`: what was asked before it is answered, however TCP cut the stream
            if pongs := b"".join(answers[:pings]):
                self.send(pongs)
            return
        answer = b"".join(answers)
        if protocol.state is OPEN:
            if answer:
                self.send(answer)
            return
        # `parser_exc`: our 1002, 1007 or 1009, even when the peer's close frame was what broke the rule.
        close = protocol.close_sent if protocol.parser_exc else protocol.close_rcvd
        self._verdict = (answer, int(close.code), close.reason) if close else (answer, CloseCode.PROTOCOL_ERROR, "")

    def _take(self, frame: Frame) -> None:
        if frame.opcode is Opcode.TEXT or frame.opcode is Opcode.BINARY:
            self._partial_is_text = frame.opcode is Opcode.TEXT
            self._partial = bytearray()
        elif frame.opcode is not Opcode.CONT:
            return
        # One growing buffer, not a list of fragments: fragments may be empty, and as many as the client likes.
        self._partial += frame.data
        if len(self._partial) > self._max_message:
            self._fail(CloseCode.MESSAGE_TOO_BIG, f"over {self._max_message} bytes")
        elif frame.fin:
            payload, self._partial = self._partial, bytearray()
            self._deliver(payload)

    def _deliver(self, payload: bytearray) -> None:
        try:
            message = payload.decode() if self._partial_is_text else bytes(payload)
        except UnicodeDecodeError as error:
            self._fail(CloseCode.INVALID_DATA, f"{error.reason} at position {error.start}")
            return
        if self._messages is None:
            self._messages = deque()
        self._messages.append(message)

    def _fail(self, code: int, reason: str) -> None:
        self._partial = bytearray()
        self._verdict = (_close_frame(code, reason), code, reason)


def _close_frame(code: int, reason: str) -> bytes:
    cut = reason.encode()[:_REASON_SIZE].decode(errors="ignore")
    try:
        return Frame(Opcode.CLOSE, Close(code, cut).serialize()).serialize(mask=False)
    except ProtocolError as error:
        raise ValueError(f"a close frame must not carry the code {code!r} (RFC 6455 section 7.4)") from error
