"""Many clients in one process, as lean as they can be: each counts a stream of numbered messages, or takes nothing."""

import asyncio
import re
import socket
import struct
import time
from collections.abc import Callable
from typing import Final

PATIENCE: Final = 60.0
SMALL: Final = 4_096  # bytes that the kernel may hold for a client that takes nothing
_SHORT: Final = struct.Struct("!H")
_LONG: Final = struct.Struct("!Q")
_NUMBER: Final = re.compile(rb'(?:"text":")?#(\d{6})')
_HELLO: Final = b"\x81\x8e" + bytes(4) + b'{"op":"hello"}'  # masked with zeros, as all that follows
_PONG: Final = b"\x81\x8d" + bytes(4) + b'{"op":"pong"}'


def message(number: int, size: int) -> str:
    """One of the stream: so many bytes, of which the first say which it is."""
    return f"#{number:06d}".ljust(size, "x")


class Listener(asyncio.Protocol):
    """One connection, raw or v1.

    Attributes:
        next: the number that has to come next; smaller ones than the first are no part of the stream.
        wrong: numbers that were not that.
        code: how it ended: the close frame's code, 1006 without one; None while it lives.
    """

    def __init__(self, path: str, *, v1: bool, first: int, took: Callable[[int, float], None]) -> None:
        subprotocol = "Sec-WebSocket-Protocol: realtime.v1\r\n" if v1 else ""
        self._request = (
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n{subprotocol}\r\n"
        ).encode()
        self.next = self._first = first
        self.wrong: list[int] = []
        self.code: int | None = None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._v1 = v1
        self._took = took
        self._buffer = bytearray()
        self._is_open = False
        self._transport: asyncio.Transport | None = None

    async def open(self, address: tuple[str, int], *, receive_buffer: int | None = None) -> "Listener":
        """Connect, and wait for the handshake (raw) or `ready` (v1)."""
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, address)
        await loop.create_connection(lambda: self, sock=sock)
        await asyncio.wait_for(self.ready, PATIENCE)
        return self

    def stall(self) -> None:
        """Take nothing any more."""
        if self._transport is not None:
            self._transport.pause_reading()

    def close(self) -> None:
        """End it without a word."""
        if self._transport is not None:
            self._transport.abort()

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._is_open:
            head, end, rest = bytes(self._buffer).partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self._end(int(head.split(b" ", 2)[1]))
                return
            self._is_open, self._buffer = True, bytearray(rest)
            if self._v1 and self._transport is not None:
                self._transport.write(_HELLO)
            else:
                self.ready.set_result(None)
        while self._take():
            pass

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(1006)

    # Inside

    def _take(self) -> bool:
        """One frame; a server's have no mask, and these no fragments."""
        buffer = self._buffer
        if len(buffer) < 2:
            return False
        size, start = buffer[1], 2
        if size >= 126:
            form = _SHORT if size == 126 else _LONG
            start += form.size
            if len(buffer) < start:
                return False
            (size,) = form.unpack_from(buffer, 2)
        if len(buffer) < start + size:
            return False
        opcode, beginning = buffer[0] & 0x0F, bytes(buffer[start : start + min(size, 256)])
        del buffer[: start + size]
        if opcode == 0x8:
            self._end(int.from_bytes(beginning[:2]))
            return False
        if opcode == 0x9 and self._transport is not None:
            self._transport.write(bytes((0x8A, 0x80 | len(beginning))) + bytes(4) + beginning)
        elif opcode == 0x1:
            self._told(beginning)
        return True

    def _told(self, beginning: bytes) -> None:
        if (found := _NUMBER.search(beginning)) is not None:
            number = int(found[1])
            if number < self._first:
                return  # the last message of the run before this one (contract 5.2)
            if number != self.next:
                self.wrong.append(number)
            self.next = number + 1
            self._took(number, time.monotonic())
        elif beginning == b'{"op":"ping"}' and self._transport is not None:
            self._transport.write(_PONG)
        elif beginning.startswith(b'{"op":"ready"'):
            self.ready.set_result(None)

    def _end(self, code: int) -> None:
        if self.code is None:
            self.code = code
            if not self.ready.done():
                self.ready.set_exception(ConnectionError(f"refused: {code}"))
        if self._transport is not None:
            self._transport.close()
