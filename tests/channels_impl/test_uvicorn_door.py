"""uvicorn's door: who is refused there, and who is left to uvicorn."""

import asyncio
from types import SimpleNamespace
from typing import Any

import django
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.http11 import Request
from websockets.server import ServerProtocol

django.setup()

from channels_impl import uvicorn_door  # noqa: E402  # it needs the settings
from channels_impl.uvicorn_door import RealtimeDoor, _plain  # noqa: E402
from shim import facility  # noqa: E402
from shim.core.cohorts import CHANNELS, FlagState  # noqa: E402
from shim.core.node import Node, Pace  # noqa: E402
from shim.door import malformed  # noqa: E402
from shim.facility import Facility  # noqa: E402

LINES = (
    "Host: localhost",
    "Upgrade: websocket",
    "Connection: keep-alive, Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
    "Cookie: sessionid=abc; other=def",
)


def head(*lines: str, first: str = "GET /ws/calls HTTP/1.1") -> bytes:
    return "\r\n".join([first, *lines, "", ""]).encode("latin-1")


class Line(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_closed = False
        self.protocol: Any = None

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol


class Inside:
    """In place of uvicorn's own protocol."""

    def __init__(self, **_: object) -> None:
        self.data = b""

    def connection_made(self, transport: object) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data


class Visit:
    """One connection at the door of a process that is full, or draining, or has room."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, is_full: bool = True, is_running: bool = True) -> None:
        pace = Pace(admissions=0.001, admission_burst=1.0)
        self.node = Node(CHANNELS, FlagState("f"), pace, now=0.0, random=lambda: 0.5)
        if is_full:
            assert self.node.admit(0.0) is None  # the one that there is room for
        served = SimpleNamespace(node=self.node) if is_running else None
        monkeypatch.setattr(facility, "_facilities", {})

        class Calls(Facility):
            name = "calls"

        monkeypatch.setattr(uvicorn_door, "running", lambda: served)
        monkeypatch.setattr(uvicorn_door, "time", SimpleNamespace(monotonic=lambda: 0.0))
        monkeypatch.setattr(uvicorn_door, "AutoHTTPProtocol", Inside)
        self.connections: set[Any] = set()
        self.line = Line()
        state: Any = SimpleNamespace(connections=self.connections)
        config: Any = None
        self.door = RealtimeDoor(config, state, {})
        self.door.connection_made(self.line)

    def say(self, data: bytes) -> str:
        """The answer's first line, or `uvicorn` where it has the connection."""
        self.door.data_received(data)
        if self.line.protocol is not None:
            assert self.line.protocol.data == data
            assert self.line.protocol.transport is self.line
            assert not self.connections
            return "uvicorn"
        return self.line.written.decode().partition("\r\n")[0]


class TestDoor:
    # contract 1.1

    def test_who_comes_while_there_is_room_is_left_to_uvicorn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        visit = Visit(monkeypatch, is_full=False)
        assert visit.say(head(*LINES)) == "uvicorn"
        assert visit.node.admit(0.0) is None  # nothing was taken

    def test_who_comes_before_the_process_has_started_is_left_to_uvicorn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert Visit(monkeypatch, is_running=False).say(head(*LINES)) == "uvicorn"

    def test_who_is_too_many_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        visit = Visit(monkeypatch)
        assert visit.say(head(*LINES)) == "HTTP/1.1 503 Service Unavailable"
        assert visit.line.is_closed
        answer, _, body = visit.line.written.decode().partition("\r\n\r\n")
        assert body == "too many are coming in at once"
        lines = answer.split("\r\n")
        assert {"Retry-After: 8", f"Content-Length: {len(body)}", "Connection: close"} <= set(lines)
        visit.door.data_received(b"more")  # which was on its way
        visit.door.connection_lost(None)
        assert not visit.connections

    def test_who_comes_to_a_process_that_stops_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # contract 9.1
        visit = Visit(monkeypatch, is_full=False)
        visit.node.drain(0.0)
        assert visit.say(head(*LINES)) == "HTTP/1.1 503 Service Unavailable"
        assert visit.line.written.endswith(b"this server is stopping")

    @pytest.mark.parametrize(
        ("first", "line", "status"),
        [
            ("GET /ws/nowhere HTTP/1.1", "X: y", 404),
            ("GET /ws/calls HTTP/1.1", "Origin: https://evil.example", 403),
            ("GET /ws/calls?a=b%20c&d HTTP/1.1", "Sec-WebSocket-Protocol: realtime.v1, other", 503),
        ],
    )
    def test_the_order_is_everybodys(self, monkeypatch: pytest.MonkeyPatch, first: str, line: str, status: int) -> None:
        assert Visit(monkeypatch).say(head(*LINES, line, first=first)).startswith(f"HTTP/1.1 {status} ")

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"GET /ws/calls",
            head(*LINES)[:-2],
            head(*LINES) + b"\x81",
            head(*LINES, first="POST /ws/calls HTTP/1.1"),
            head(*LINES, first="GET /ws/calls HTTP/1.0"),
            head(*LINES, first="GET /ws/ca%6cls HTTP/1.1"),
            head(*LINES, first="GET /elsewhere HTTP/1.1"),
            head(*LINES, first="GET http://localhost/ws/calls HTTP/1.1"),
            head(*LINES, "Content-Length: 3"),
            head(*LINES, "Transfer-Encoding: chunked"),
            head(*LINES, "Sec-WebSocket-Version: 13"),
            head(*LINES, "Sec-WebSocket-Protocol: ,;"),
            head(*LINES, " folded"),
            head(*LINES, "no colon"),
            head(*LINES, f"X: {'y' * 9_000}"),
            head(*LINES[:3], "Sec-WebSocket-Key: abc", *LINES[4:]),
            head(*LINES[:4], "Sec-WebSocket-Version: 8", *LINES[5:]),
            head(*LINES[:3], *LINES[4:]),
        ],
    )
    def test_what_is_not_plain_is_left_to_uvicorn(self, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
        assert Visit(monkeypatch).say(data) == "uvicorn"

    def test_a_request_for_no_upgrade_is_told_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert Visit(monkeypatch).say(head(*LINES[:1], *LINES[2:])).startswith("HTTP/1.1 426 ")

    def test_who_has_said_nothing_is_not_waited_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        visit = Visit(monkeypatch)
        assert visit.connections == {visit.door}
        visit.door.shutdown()
        assert visit.line.is_closed


WORDS = st.sampled_from(
    ["", "13", "8", "websocket", "Upgrade", "dGhlIHNhbXBsZSBub25jZQ==", "YWJj", "a,b", "a b", ";", "é"]
)
NAMES = st.sampled_from(
    ["Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version", "Sec-WebSocket-Protocol", "Host"]
)


class TestPlain:
    @given(st.lists(st.tuples(NAMES, WORDS), max_size=3), st.permutations(LINES))
    def test_no_parser_finds_fault_with_what_is_plain(self, more: list[tuple[str, str]], lines: list[str]) -> None:
        changed = {name for name, _ in more}
        data = head(*(line for line in lines if line.partition(":")[0] not in changed), *(f"{a}: {b}" for a, b in more))
        handshake = _plain(data)
        if handshake is None or not handshake.is_upgrade:
            return
        assert malformed("GET", handshake.headers) is None
        parser = ServerProtocol()
        parser.receive_data(data)
        (request,) = parser.events_received()
        assert isinstance(request, Request)
        assert parser.accept(request).status_code == 101
