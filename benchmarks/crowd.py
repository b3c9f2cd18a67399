"""Many WebSocket clients in one process, which cost as little as they can: most only count bytes."""

import base64
import os
import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Self

PATIENCE: Final = 60.0  # seconds
_CHUNK: Final = 1 << 18


class Crowd:
    """Open connections to one server; a context manager.

    Args:
        port: on this machine. paths: of each connection. cookies: of each, none by default.
    """

    def __init__(
        self, port: int, paths: Sequence[str], *, cookies: Sequence[str] = (), on_open: Callable[[], None]
    ) -> None:
        self.sockets: dict[int, socket.socket] = {}
        self.received: dict[int, int] = {}
        self._poll = select.epoll()
        for path, cookie in zip(paths, cookies or [""] * len(paths), strict=True):
            opened = _open(port, path, f"Cookie: {cookie}\r\n" if cookie else "")
            self.sockets[opened.fileno()] = opened
            self.received[opened.fileno()] = 0
            self._poll.register(opened.fileno(), select.EPOLLIN)
            on_open()
        self._buffer = bytearray(_CHUNK)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self.sockets.values():
            each.close()
        self._poll.close()

    def __len__(self) -> int:
        return len(self.sockets)

    def drain(self, total: int) -> float:
        """Read until so many bytes have come, over all connections; the seconds until the last of them.

        Raises:
            TimeoutError: they did not come. ConnectionError: a server hung up, or sent more.
        """
        started = time.perf_counter()
        deadline = started + PATIENCE
        left = total
        while left > 0:
            for descriptor, _ in self._poll.poll(1.0):
                size = self.sockets[descriptor].recv_into(self._buffer)
                if not size:
                    raise ConnectionError("the server has hung up")
                self.received[descriptor] += size
                left -= size
            if time.perf_counter() > deadline:
                raise TimeoutError(f"{left} of {total} bytes have not come within {PATIENCE:g} s")
        if left < 0:
            raise ConnectionError(f"{-left} bytes too many have come")
        return time.perf_counter() - started

    def frames(self, count: int, size: int) -> Iterator[bytes]:
        """So many frames of this size, over all connections, each as soon as it is there.

        Raises:
            TimeoutError: they did not come. ConnectionError: a server hung up, or sent others.
        """
        deadline = time.monotonic() + PATIENCE
        while count > 0:
            for descriptor, _ in self._poll.poll(1.0):
                data = self.sockets[descriptor].recv(4096)
                if not data or len(data) % size:
                    raise ConnectionError(f"not frames of {size} bytes: {data!r}")
                for start in range(0, len(data), size):
                    count -= 1
                    yield data[start : start + size]
            if time.monotonic() > deadline:
                raise TimeoutError(f"{count} frames have not come within {PATIENCE:g} s")


class Answering(Crowd):
    """A crowd that answers what it is asked, whether by a ping frame or by the text `ping`.

    Attributes:
        answered: so many.
    """

    answered = 0

    def answer(self, seconds: float) -> None:
        """Answer for so long.

        Raises:
            ConnectionError: a server hung up, or said something else.
        """
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            for descriptor, _ in self._poll.poll(left):
                data = memoryview(self.sockets[descriptor].recv(4096))
                if not data:
                    raise ConnectionError("the server has hung up")
                while data:
                    size = 2 + data[1]  # a heartbeat is short
                    asked, data = data[:size], data[size:]
                    self.sockets[descriptor].send(_answer(asked))
                    self.answered += 1


def _answer(asked: memoryview) -> bytes:
    """A frame masked with zeros."""
    kind, payload = asked[0], bytes(asked[2:])
    if kind == 0x89:
        kind = 0x8A
    elif kind == 0x81 and payload == b"ping":
        payload = b"pong"
    else:
        raise ConnectionError(f"a frame that is no ping: {bytes(asked)!r}")
    return bytes((kind, 0x80 | len(payload))) + bytes(4) + payload


def _handshake(port: int, path: str, more: str) -> bytes:
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    ).encode()


def _open(port: int, path: str, more: str) -> socket.socket:
    opened = socket.create_connection(("127.0.0.1", port), PATIENCE)
    opened.sendall(_handshake(port, path, more))
    head = b""
    while b"\r\n\r\n" not in head:
        got = opened.recv(1)  # not one byte of what comes after it
        if not got:
            raise ConnectionError(f"{path} was not answered: {head!r}")
        head += got
    if not head.startswith(b"HTTP/1.1 101"):
        raise ConnectionError(f"{path} was refused: {head.decode(errors='replace')}")
    return opened


def knock(port: int, path: str, cookies: Sequence[str], at_once: int, status: int) -> None:
    """Send a handshake with each of these cookies, so many at a time, and hang up when it is answered.

    Raises:
        ConnectionError: an answer has another status. TimeoutError: there was none.
    """
    waiting = list(cookies)
    open_ones: dict[int, socket.socket] = {}
    heads: dict[int, bytes] = {}
    ready = select.epoll()
    deadline = time.monotonic() + PATIENCE
    try:
        while waiting or open_ones:
            while waiting and len(open_ones) < at_once:
                opened = socket.create_connection(("127.0.0.1", port), PATIENCE)
                opened.sendall(_handshake(port, path, f"Cookie: {waiting.pop()}\r\n"))
                open_ones[opened.fileno()], heads[opened.fileno()] = opened, b""
                ready.register(opened.fileno(), select.EPOLLIN)
            for descriptor, _ in ready.poll(1.0):
                got = open_ones[descriptor].recv(4096)
                heads[descriptor] += got
                if got and b"\r\n\r\n" not in heads[descriptor]:
                    continue
                head = heads.pop(descriptor)
                ready.unregister(descriptor)
                open_ones.pop(descriptor).close()
                if not head.startswith(f"HTTP/1.1 {status} ".encode()):
                    raise ConnectionError(f"expected {status}: {head.decode(errors='replace')[:300]}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(open_ones)} handshakes are not answered within {PATIENCE:g} s")
    finally:
        ready.close()
        for opened in open_ones.values():
            opened.close()
