"""A client of raw bytes on a socket that never blocks: it reads what has come, and waits only where it is told to."""

import select
import socket
import struct
import time
from collections.abc import Mapping
from typing import Final

from contract_tests.client import SUBPROTOCOL, Seen
from contract_tests.wire import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    Frame,
    FrameReader,
    Head,
    ServerFault,
    close_frame,
    frame,
    handshake,
    handshake_headers,
)
from contract_tests.wire import head_of as parsed_head

_CHUNK: Final = 262_144


class SocketClient:
    """A `Client` on a TCP connection; it can also send what no client may.

    Args:
        address: host and port. path: with its query. v1: which of the two protocols.
        headers: more of the handshake's. receive_buffer: bytes that the kernel keeps for one that stops reading.
    """

    def __init__(
        self,
        address: tuple[str, int],
        path: str,
        *,
        v1: bool,
        headers: Mapping[str, str],
        receive_buffer: int | None = None,
    ) -> None:
        self.v1 = v1
        self.over = False
        self._reader = FrameReader()
        self._answer = b""
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(10.0)
        self.socket.connect(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        subprotocol = SUBPROTOCOL if v1 else None
        host = f"{address[0]}:{address[1]}"
        self.socket.sendall(handshake(path, handshake_headers(host, subprotocol=subprotocol, headers=headers)))

    def open(self, timeout: float) -> tuple[Head, list[Seen]]:
        """See `Client`."""
        deadline = time.monotonic() + timeout
        while (found := parsed_head(self._answer)) is None:
            self._answer += self._wait_for_bytes(deadline)
        head, rest = found
        if head.status != 101:
            size = int(head.headers.get("content-length", "0"))
            while len(rest) < size:
                rest += self._wait_for_bytes(deadline)
            head.body = rest
            self.end()
            return head, []
        self.socket.setblocking(False)
        return head, self._events(self._reader.feed(rest))

    def pump(self) -> list[Seen]:
        """See `Client`."""
        seen: list[Seen] = []
        while not self.over:
            try:
                data = self.socket.recv(_CHUNK)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                seen.append(Seen("closed", code=None))
                self.end()
                break
            seen += self._events(self._reader.feed(data))
            if len(data) < _CHUNK:
                break
        return seen

    def wait(self, timeout: float = 1.0) -> None:
        """See `Client`."""
        if not self.over:
            select.select([self.socket], [], [], timeout)

    def say(self, opcode: int, payload: bytes) -> None:
        """See `Client`."""
        self.send(frame(opcode, payload))

    def leave(self, code: int | None) -> None:
        """See `Client`."""
        self.send(close_frame(code))

    def stall(self) -> None:
        """See `Client`: whoever does not `pump` does not read."""

    def send(self, data: bytes, *, bytewise: bool = False) -> None:
        """Send bytes as they are; a server that has gone is no error: what it said comes with `pump`."""
        if self.over:
            return
        try:
            for part in [data[index : index + 1] for index in range(len(data))] if bytewise else [data]:
                self._send(part)
        except OSError:
            return

    def end(self, *, abrupt: bool = False) -> None:
        """See `Client`."""
        if abrupt and not self.over:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.over = True
        self.socket.close()

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self.socket.send(view) :]
            except BlockingIOError:
                if not select.select([], [self.socket], [], 10.0)[1]:
                    raise TimeoutError("the server takes nothing for 10 s") from None

    def _wait_for_bytes(self, deadline: float) -> bytes:
        self.socket.settimeout(max(0.001, deadline - time.monotonic()))
        data = self.socket.recv(_CHUNK)
        if not data and not self._answer:  # as one that is ending does with who comes in that moment
            raise ConnectionResetError("the server hung up without an answer")
        if not data:
            raise ServerFault(f"the server hung up in its answer: {self._answer!r:.200}")
        return data

    def _events(self, frames: list[Frame]) -> list[Seen]:
        seen: list[Seen] = []
        for one in frames:
            if one.opcode == PING:
                self.send(frame(PONG, one.payload))
            elif one.opcode == PONG:
                seen.append(Seen("pong", value=one.payload))
            elif one.opcode == CLOSE:
                code = struct.unpack("!H", one.payload[:2])[0] if one.payload else 1005
                seen.append(Seen("closed", code=code))
                self.send(frame(CLOSE, one.payload[:2]))
                self.end()
                break
            else:
                what = Seen.message(self.v1, one.opcode, one.payload)
                if what.op == "ping":
                    self.send(frame(TEXT, b'{"op":"pong"}'))
                else:
                    seen.append(what)
        return seen
