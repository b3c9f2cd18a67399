"""uvicorn's protocol as ours: ready frames that go straight to its transport, among all that goes the ordinary way."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import django
import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import OPEN
from websockets.uri import parse_uri

django.setup()

from channels_impl.line import Line, line_of  # noqa: E402  # it needs the settings
from channels_impl.outbox import Outbox  # noqa: E402
from channels_impl.uvicorn_protocol import RealtimeProtocol  # noqa: E402
from shim.core.protocol import Frame as OurFrame  # noqa: E402


class Wire(asyncio.Transport):
    """A transport that keeps what is written, and is as full or as closed as it is told to be."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Nobody looks."""

    def pause_reading(self) -> None:
        """Nothing comes by itself."""

    def resume_reading(self) -> None:
        """Nothing comes by itself."""

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed


class Visit:
    """One connection: its client is a parser, its application takes over the line and waits."""

    def __init__(self, *, is_accepted: bool = True, is_compressed: bool = False) -> None:
        config = Config(
            self._application, interface="asgi3", ws_per_message_deflate=is_compressed, ws_ping_interval=None
        )
        config.load()
        self._is_accepted = is_accepted
        self._scope: Any = None
        self._events: list[Any] = []
        self.send: Any = None
        self.wire = Wire()
        self.protocol = RealtimeProtocol(config, ServerState(), {}, asyncio.get_running_loop())
        self.protocol.connection_made(self.wire)
        extensions = [ClientPerMessageDeflateFactory()] if is_compressed else None
        self.client = ClientProtocol(parse_uri("ws://localhost/ws/calls"), extensions=extensions)
        self._read = 0

    async def _application(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        self._scope, self.send = scope, send
        assert (await receive())["type"] == "websocket.connect"
        if self._is_accepted:
            self.line.take_over()
            await send({"type": "websocket.accept"})
        while True:
            self._events.append(await receive())

    @property
    def line(self) -> Line:
        found = line_of(self._scope)
        assert found is not None
        return found

    async def opened(self) -> "Visit":
        self.client.send_request(self.client.connect())
        await self.says(b"".join(self.client.data_to_send()))
        if self._is_accepted:
            assert self.seen() == []
            assert self.client.state is OPEN
        return self

    async def says(self, *segments: bytes) -> list[Any]:
        """The client does; what the application is told meanwhile."""
        before = len(self._events)
        for segment in segments:
            self.protocol.data_received(segment)
            await settled()
        return self._events[before:]

    def seen(self) -> list[tuple[Opcode, bytes]]:
        """What the client reads, as far as it has not before."""
        self.client.receive_data(self.wire.written[self._read :])
        self._read = len(self.wire.written)
        return [
            (event.opcode, bytes(event.data)) for event in self.client.events_received() if isinstance(event, Frame)
        ]

    def takes(self, frame: OurFrame) -> bool:
        """Whether the line does; if not, nothing may have been written."""
        before = self.wire.written
        taken = self.line.write(frame.wire)
        assert taken or self.wire.written == before
        return taken

    async def says_text(self, text: str) -> None:
        """The application does, as ASGI has it."""
        await self.send({"type": "websocket.send", "text": text})


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def text(word: str) -> OurFrame:
    return OurFrame(word.encode(), text=True)


def texts(*words: str) -> list[tuple[Opcode, bytes]]:
    return [(Opcode.TEXT, word.encode()) for word in words]


def masked(opcode: Opcode, payload: bytes = b"", *, fin: bool = True) -> bytes:
    return Frame(opcode, payload, fin).serialize(mask=True)


BAD_TEXT = masked(Opcode.TEXT, b"\xff")


class TestWrite:
    def test_frames_go_out_as_they_are_and_in_their_place(self) -> None:
        # contract 3.2, 4.1
        async def run() -> None:
            visit = await Visit().opened()
            binary = OurFrame(bytes(70_000), text=False)
            await visit.says_text("1")
            assert visit.takes(text("2"))
            visit.line.ping()
            assert visit.takes(binary)
            await visit.says_text("3")
            assert visit.takes(text(""))
            assert visit.wire.written.endswith(b"\x81\x00")
            found = [*texts("1", "2"), (Opcode.PING, b""), (Opcode.BINARY, binary.data), *texts("3", "")]
            assert visit.seen() == found

        asyncio.run(run())

    def test_among_frames_that_are_compressed(self) -> None:
        async def run() -> None:
            visit = await Visit(is_compressed=True).opened()
            assert visit.client.extensions
            for _ in range(2):
                await visit.says_text("again and again and again")
                assert visit.takes(text("again and again and again"))
            assert visit.seen() == texts(*["again and again and again"] * 4)

        asyncio.run(run())

    def test_inside_of_a_message_that_comes(self) -> None:
        async def run() -> None:
            visit = await Visit().opened()
            first, last = masked(Opcode.TEXT, b"ab", fin=False), masked(Opcode.CONT, b"cd")
            assert await visit.says(first, last[:3]) == []
            assert visit.takes(text("meanwhile"))
            assert await visit.says(last[3:]) == [{"type": "websocket.receive", "text": "abcd"}]
            assert visit.takes(text("then"))
            assert visit.seen() == texts("meanwhile", "then")

        asyncio.run(run())

    def test_nothing_before_the_handshake_is_answered(self) -> None:
        # contract 1.1
        async def run() -> None:
            visit = await Visit(is_accepted=False).opened()
            assert not visit.takes(text("early"))
            assert visit.wire.written == b""

        asyncio.run(run())

    def test_a_socket_that_is_full_takes_nothing(self) -> None:
        # contract 7.2
        async def run() -> None:
            visit = await Visit().opened()
            visit.protocol.pause_writing()
            assert not visit.takes(text("too much"))
            visit.protocol.resume_writing()
            assert visit.takes(text("now"))
            assert visit.seen() == texts("now")

        asyncio.run(run())

    def test_nothing_behind_our_close_frame(self) -> None:
        async def run() -> None:
            visit = await Visit().opened()
            await visit.send({"type": "websocket.close", "code": 1012, "reason": ""})
            assert not visit.takes(text("late"))
            assert visit.seen() == [(Opcode.CLOSE, Close(1012, "").serialize())]

        asyncio.run(run())

    @pytest.mark.parametrize("last", [BAD_TEXT, masked(Opcode.CLOSE, b"\x03\xe8")], ids=["bad UTF-8", "close frame"])
    def test_what_the_client_ends_leaves_the_last_word_to_the_application(self, last: bytes) -> None:
        # contract 6.3: the answer waits for the application, which is in a handler
        async def run() -> None:
            visit = await Visit().opened()
            visit.protocol.data_received(last)
            assert not visit.takes(text("not this way"))
            await visit.says_text("but this")
            await settled()
            assert not visit.takes(text("late"))
            (first, _), (second, _) = seen = visit.seen()
            assert (first, second) == (Opcode.TEXT, Opcode.CLOSE)
            assert seen[0][1] == b"but this"

        asyncio.run(run())

    def test_a_line_that_is_lost_takes_nothing(self) -> None:
        async def run() -> None:
            visit = await Visit().opened()
            visit.protocol.connection_lost(ConnectionResetError())
            assert not visit.takes(text("late"))

        asyncio.run(run())

    def test_a_line_that_is_being_closed_takes_nothing(self) -> None:
        async def run() -> None:
            visit = await Visit().opened()
            visit.wire.close()
            assert not visit.takes(text("late"))

        asyncio.run(run())


class TestOutboxOnALine:
    # contract 3.2, 7.2

    def test_the_order_holds_when_the_socket_is_full_in_between(self) -> None:
        async def run() -> None:
            visit = await Visit().opened()
            box = Outbox(visit.send, 1_000, pytest.fail, visit.line)
            box.put(text("1"))
            visit.protocol.pause_writing()
            box.put(text("2"))
            box.put(text("3"))
            await settled()
            visit.protocol.resume_writing()
            box.put(text("4"))  # there is room again, but those before it are only about to go
            await settled()
            box.put(text("5"))
            assert visit.seen() == texts("1", "2", "3", "4", "5")

        asyncio.run(run())

    def test_what_the_line_does_not_take_counts(self) -> None:
        async def run() -> None:
            visit = await Visit().opened()
            told: list[int] = []
            box = Outbox(visit.send, 1_000, lambda: told.append(box.backlog), visit.line)
            visit.protocol.pause_writing()
            for _ in range(11):  # one is in the hands of the ASGI send, ten wait
                box.put(text("x" * 100))
            assert told == []
            box.put(text("x" * 100))
            assert told == [1_000]
            assert visit.seen() == []

        asyncio.run(run())

    def test_a_close_frame_waits_for_its_turn(self) -> None:
        async def run() -> None:
            visit = await Visit().opened()
            box = Outbox(visit.send, 1_000, pytest.fail, visit.line)
            visit.protocol.pause_writing()
            box.put(text("1"))
            box.close(1012, "")
            box.put(text("late"))
            await settled()
            visit.protocol.resume_writing()
            await settled()
            assert visit.seen() == [*texts("1"), (Opcode.CLOSE, Close(1012, "").serialize())]

        asyncio.run(run())
