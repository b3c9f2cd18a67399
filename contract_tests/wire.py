"""WebSocket as bytes (RFC 6455), for a client that judges servers. Pure: no I/O.

Written for this suite alone: a parser that the servers use too would share their mistakes.
"""

import base64
import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

CONTINUATION: Final = 0
TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10

KEY: Final = "Y29udHJhY3QgdGVzdHMhIQ=="
_ACCEPT: Final = base64.b64encode(
    hashlib.sha1(f"{KEY}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode(), usedforsecurity=False).digest()
).decode()
_MASK: Final = b"\x37\xfa\x21\x3d"


class ServerFault(Exception):
    """A server sent bytes that RFC 6455 forbids."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A whole message or a control frame, as a server sent it."""

    opcode: int
    payload: bytes


@dataclass(slots=True)
class Head:
    """A server's answer to a handshake."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


def handshake_headers(host: str, *, subprotocol: str | None, headers: Mapping[str, str]) -> dict[str, str]:
    """What a client's handshake says; `headers` win."""
    return {
        "Host": host,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits",  # as every browser asks
        **({} if subprotocol is None else {"Sec-WebSocket-Protocol": subprotocol}),
        **headers,
    }


def handshake(path: str, headers: Mapping[str, str]) -> bytes:
    """A client's handshake."""
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def head_of(data: bytes) -> tuple[Head, bytes] | None:
    """A response's head and what follows it, None while it is not there yet.

    Raises:
        ServerFault: not HTTP, or a 101 that RFC 6455 forbids.
    """
    text, end, rest = data.partition(b"\r\n\r\n")
    if not end:
        return None
    first, *lines = text.decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
        raise ServerFault(f"not an HTTP response: {first!r}")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    head = Head(int(words[1]), headers)
    if head.status == 101 and headers.get("sec-websocket-accept") != _ACCEPT:
        raise ServerFault(f"a 101 with a wrong Sec-WebSocket-Accept: {headers}")
    if head.status == 101 and "sec-websocket-extensions" in headers:
        raise ServerFault(f"compression, which costs memory and which this suite does not read: {headers}")
    return head, rest


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = True) -> bytes:
    """A client's frame, or one that no client may send."""
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    bit = 0x80 if masked else 0
    size = len(payload)
    if size < 126:
        head = bytes((first, bit | size))
    elif size < 65_536:
        head = bytes((first, bit | 126)) + size.to_bytes(2)
    else:
        head = bytes((first, bit | 127)) + size.to_bytes(8)
    return head + (_MASK + _masked(payload) if masked else payload)


def close_frame(code: int | None, reason: bytes = b"") -> bytes:
    """A client's close frame; None leaves it empty."""
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason)


def fragments(opcode: int, payload: bytes, cuts: int, between: bytes = b"") -> bytes:
    """A message in `cuts + 1` fragments, with the same bytes (a ping, say) between any two."""
    size = len(payload) // (cuts + 1) + 1
    parts = [payload[start : start + size] for start in range(0, max(len(payload), 1), size)]
    parts += [b""] * (cuts + 1 - len(parts))
    frames = [
        frame(CONTINUATION if index else opcode, part, fin=index == len(parts) - 1) for index, part in enumerate(parts)
    ]
    return between.join(frames)


def _masked(payload: bytes) -> bytes:
    size = len(payload)
    mask = (_MASK * (size // 4 + 1))[:size]
    return (int.from_bytes(payload) ^ int.from_bytes(mask)).to_bytes(size)


@dataclass(slots=True)
class FrameReader:
    """Bytes in, frames out; fragments are put together.

    Raises (from `feed`):
        ServerFault: something that a server must not send.
    """

    _data: bytearray = field(default_factory=bytearray)
    _opcode: int | None = None
    _parts: list[bytes] = field(default_factory=list)

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes, give what is complete."""
        self._data += data
        found: list[Frame] = []
        while (one := self._one()) is not None:
            found.extend(self._joined(*one))
        return found

    def _one(self) -> tuple[bool, int, bytes] | None:
        data = self._data
        if len(data) < 2:
            return None
        first, second = data[0], data[1]
        if first & 0x70 or second & 0x80:
            raise ServerFault(f"reserved bits or a mask in a server's frame: {bytes(data[:16])!r}")
        size, start = second & 0x7F, 2
        if size >= 126:
            start = 4 if size == 126 else 10
            if len(data) < start:
                return None
            size = int.from_bytes(data[2:start])
        if len(data) < start + size:
            return None
        payload = bytes(data[start : start + size])
        del data[: start + size]
        return bool(first & 0x80), first & 0x0F, payload

    def _joined(self, fin: bool, opcode: int, payload: bytes) -> list[Frame]:
        if opcode >= CLOSE:
            if not fin or len(payload) > 125 or opcode > PONG or (opcode == CLOSE and len(payload) == 1):
                raise ServerFault(f"not a control frame: opcode {opcode}, fin {fin}, {payload[:16]!r}")
            return [Frame(opcode, payload)]
        if (opcode == CONTINUATION) is (self._opcode is None) or opcode > BINARY:
            raise ServerFault(f"opcode {opcode} while opcode {self._opcode} is open")
        if self._opcode is None:
            self._opcode = opcode
        self._parts.append(payload)
        if not fin:
            return []
        whole = Frame(self._opcode, b"".join(self._parts))
        self._opcode, self._parts = None, []
        return [whole]
