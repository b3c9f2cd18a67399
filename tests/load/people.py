"""Many v1 clients in one process, as lean as they can be: what they cost must not be taken for what a server costs.

Each speaks as much of RFC 6455 and `realtime.v1` as its servers say to it, and moves when it is told to.
"""

import asyncio
import json
import struct
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

PATIENCE: Final = 60.0
_HEADS: Final = struct.Struct("!H")
_LONG: Final = struct.Struct("!Q")
_CLOSE: Final = b"\x88\x82\x00\x00\x00\x00\x03\xe8"  # 1000; masked with zeros, as all that follows


def _text(payload: bytes) -> bytes:
    return bytes((0x81, 0x80 | len(payload))) + bytes(4) + payload


_HELLO: Final = _text(b'{"op":"hello"}')
_PONG: Final = _text(b'{"op":"pong"}')


class Line(asyncio.Protocol):
    """One connection; `told` gets the payload of each text frame, `ended` the close code or the HTTP status."""

    def __init__(self, path: str, cookie: str, told: Callable[[bytes], None], ended: Callable[[int], None]) -> None:
        self._request = (
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Protocol: realtime.v1\r\nCookie: realtime_anonymous={cookie}\r\n\r\n"
        ).encode()
        self._told = told
        self._ended = ended
        self._buffer = b""
        self._is_open = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._is_open:
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return
            status = int(head.split(b" ", 2)[1])
            if status != 101:
                self._end(status)
                return
            self._is_open, self._buffer = True, rest
            self.write(_HELLO)
        while self._take():
            pass

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(1006)

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def leave(self) -> None:
        """Close it; `ended` is not called any more."""
        self._ended = lambda _: None
        self.write(_CLOSE)
        if self._transport is not None:
            self._transport.close()

    def _take(self) -> bool:
        """Take one frame; a server's have no mask, and ours here no fragments."""
        buffer = self._buffer
        if len(buffer) < 2:
            return False
        size, start = buffer[1], 2
        if size >= 126:
            form = _HEADS if size == 126 else _LONG
            start += form.size
            if len(buffer) < start:
                return False
            (size,) = form.unpack_from(buffer, 2)
        if len(buffer) < start + size:
            return False
        payload, self._buffer = buffer[start : start + size], buffer[start + size :]
        match buffer[0] & 0x0F:
            case 0x1 if payload == b'{"op":"ping"}':
                self.write(_PONG)
            case 0x1:
                self._told(payload)
            case 0x8:
                self._end(int.from_bytes(payload[:2]))
                return False
        return True

    def _end(self, code: int) -> None:
        ended, self._ended = self._ended, lambda _: None
        ended(code)
        if self._transport is not None:
            self._transport.close()


class Person:
    """A client that stays connected, and goes where it is told.

    Attributes:
        backend: where it is. told, moved: when it was told to move, and when it had. ends: codes of lost connections.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.backend = ""
        self.told: list[float] = []
        self.moved: list[float] = []
        self.ends: list[int] = []
        self._line: Line | None = None
        self._task: asyncio.Task[None] | None = None

    async def open(self, url: str) -> None:
        """Connect, and wait for `ready`."""
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[str] = loop.create_future()
        target = urlsplit(url)

        def told(payload: bytes) -> None:
            fields = json.loads(payload)
            if fields["op"] == "ready" and not ready.done():  # it may have lost its patience
                ready.set_result(fields["backend"])
            elif fields["op"] == "move" and self._line is line:
                self.told.append(time.monotonic())
                self._task = loop.create_task(self._move(fields["url"]))

        def ended(code: int) -> None:
            if not ready.done():
                ready.set_exception(ConnectionError(f"{self.name} was refused: {code}"))
            else:
                self.ends.append(code)

        _, line = await loop.create_connection(
            lambda: Line(target.path, self.name, told, ended), str(target.hostname), int(target.port or 80)
        )
        self.backend = await asyncio.wait_for(ready, PATIENCE)
        old, self._line = self._line, line
        if old is not None:
            old.leave()

    def close(self) -> None:
        """Go."""
        if self._task is not None:
            self._task.cancel()
        if self._line is not None:
            self._line.leave()

    async def _move(self, url: str) -> None:
        try:
            await self.open(url)
        except (OSError, TimeoutError):
            self.ends.append(0)  # it could not get there; it is still where it was
        else:
            self.moved.append(time.monotonic())


async def arrived(names: list[str], url: str, *, at_once: int = 25) -> list[Person]:
    """Connect people, so many at a time."""
    door = asyncio.Semaphore(at_once)

    async def enter(person: Person) -> Person:
        async with door:
            await person.open(url)
        return person

    return list(await asyncio.gather(*(enter(Person(name)) for name in names)))
