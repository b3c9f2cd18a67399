"""A WebSocket client that does what a good one never would."""

import os
import socket
import struct
from typing import Final, Self

from tests.legacy_ws4redis.servers import Server

KEY: Final = "dGhlIHNhbXBsZSBub25jZQ=="
CONT: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA
HANDSHAKE: Final = {
    "Host": "127.0.0.1",
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": KEY,
}


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, masked: bool = True, reserved: int = 0) -> bytes:
    """A client's frame, right or wrong."""
    head = struct.pack("!B", (0x80 if fin else 0) | (reserved << 4) | opcode) + length(len(payload), masked=masked)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


def length(size: int, *, masked: bool = True) -> bytes:
    """The length field of a frame."""
    bit = 0x80 if masked else 0
    if size < 126:
        return struct.pack("!B", bit | size)
    if size < 65_536:
        return struct.pack("!BH", bit | 126, size)
    return struct.pack("!BQ", bit | 127, size)


class RawClient:
    """One TCP connection to a server, as a context manager."""

    def __init__(self, port: int, *, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(10)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def handshake(self, path: str, *, with_it: bytes = b"") -> bytes:
        """Open the WebSocket; `with_it` goes out in the same segment. Returns the response's head."""
        lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in HANDSHAKE.items()), "", ""]
        self.send("\r\n".join(lines).encode() + with_it)
        return self.head()

    def head(self) -> bytes:
        """A response's head."""
        lines = []
        while (line := self._stream.readline()) not in (b"\r\n", b""):
            lines.append(line)
        return b"".join(lines)

    def read(self) -> tuple[int, bytes]:
        """One frame: opcode and payload.

        Raises:
            EOFError: the stream ended between two frames.
        """
        first = self._stream.read(1)
        if not first:
            raise EOFError
        assert first[0] & 0xF0 == 0x80, f"a server's frame begins with {first!r}"
        size = self._exactly(1)[0]
        if size == 126:
            (size,) = struct.unpack("!H", self._exactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self._exactly(8))
        return first[0] & 0x0F, self._exactly(size)

    def close_code(self) -> int:
        """Read up to the close frame, and what follows it must be the end of the stream."""
        while True:
            opcode, payload = self.read()
            if opcode == CLOSE:
                break
        rest = self._stream.read()
        assert rest == b"", f"after the close frame: {rest!r}"
        return struct.unpack("!H", payload[:2])[0] if payload else 1005

    def skip(self, size: int) -> None:
        """Read over bytes, such as a response's body."""
        self._exactly(size)

    def hurry(self) -> None:
        """Take in much at a time from now on, however small `receive_buffer` was."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_194_304)

    def drain(self) -> None:
        """Read everything up to the end of the stream."""
        while self.socket.recv(65_536):
            pass

    def reset(self) -> None:
        """End with RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._stream.close()
        self.socket.close()

    def _exactly(self, size: int) -> bytes:
        data = self._stream.read(size)
        assert len(data) == size, f"the stream ended inside of a frame, {size - len(data)} bytes short"
        return data


def opened(server: Server, name: str, *, receive_buffer: int | None = None) -> RawClient:
    """A client with an open WebSocket."""
    client = RawClient(server.port, receive_buffer=receive_buffer)
    head = client.handshake(f"/ws/{name}")
    assert b" 101 " in head, head
    return client
