"""A client of raw bytes on a blocking-free socket: it reads what has come, and waits only where it is told to."""

import json
import select
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from contract_tests.wire import BINARY, CLOSE, PING, PONG, TEXT, Frame, FrameReader, Head, ServerFault, frame, handshake
from contract_tests.wire import head_of as parsed_head

SUBPROTOCOL: Final = "realtime.v1"
_CHUNK: Final = 262_144


@dataclass(frozen=True, slots=True)
class Seen:
    """One thing that a client got: `op` is `msg`, `pong`, `closed` or another op of realtime.v1.

    Attributes:
        kind, value: of a `msg` (raw cannot tell JSON from text: `text`). code: of `closed`; None without a close frame.
        fields: a v1 frame as it came.
    """

    op: str
    kind: str = ""
    value: Any = None
    code: int | None = None
    fields: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        shown = self.fields if self.fields is not None else (self.kind, self.value)
        if self.op == "closed":
            shown = ("close code", self.code)
        text = f"{self.op} {shown!r}"
        return text if len(text) < 300 else f"{text[:300]}… ({len(text)} long)"


class Client:
    """One connection to a server: first `open`, then `pump` as often as wanted.

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
        self.bytes_read = 0
        self._reader = FrameReader()
        self._answer = b""
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(10.0)
        self.socket.connect(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        subprotocol = SUBPROTOCOL if v1 else None
        self.socket.sendall(handshake(path, f"{address[0]}:{address[1]}", subprotocol=subprotocol, headers=headers))

    def open(self, timeout: float) -> tuple[Head, list[Seen]]:
        """Wait for the answer: its head (with the body of a refusal), and what came right behind it.

        Raises:
            ServerFault: not an answer to a handshake. TimeoutError: none in time.
        """
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
        """What has come by now; pings are answered. Never waits."""
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
            self.bytes_read += len(data)
            seen += self._events(self._reader.feed(data))
            if len(data) < _CHUNK:
                break
        return seen

    def wait(self, timeout: float = 1.0) -> None:
        """Wait until there is something to `pump`, at most so many seconds."""
        if not self.over:
            select.select([self.socket], [], [], timeout)

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
        """Close the socket; `abrupt` resets the connection. Idempotent."""
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
            elif (what := self._message(one)) is not None:
                seen.append(what)
        return seen

    def _message(self, one: Frame) -> Seen | None:
        if not self.v1:
            if one.opcode == BINARY:
                return Seen("msg", "binary", one.payload)
            return Seen("msg", "text", _utf8(one.payload))
        if one.opcode != TEXT:
            raise ServerFault(f"realtime.v1 has text frames only: {one.payload[:80]!r}")
        fields = json.loads(_utf8(one.payload))
        if fields["op"] == "ping":
            self.send(frame(TEXT, b'{"op":"pong"}'))
            return None
        return Seen(fields["op"], fields=fields)


def _utf8(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise ServerFault(f"a text frame that is not UTF-8: {payload[:80]!r}") from None
