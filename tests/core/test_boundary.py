import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from shim.core.boundary import is_pong, size_on_wire

PONG = b"\x8a\x80"


def frame(payload: bytes, opcode: Opcode = Opcode.TEXT, *, fin: bool = True) -> bytes:
    return Frame(opcode, payload, fin).serialize(mask=True)


class Reader:
    """Reads as both backends do; keeps what the parser was given."""

    def __init__(self) -> None:
        self.parser = ServerProtocol(state=OPEN)
        self.begun = 0
        self.passed_over = 0
        self.frames: list[Frame] = []

    def feed(self, data: bytes) -> None:
        if not self.begun and is_pong(data):
            self.passed_over += 1
            return
        self.begun += len(data)
        self.parser.receive_data(data)
        for event in self.parser.events_received():
            assert isinstance(event, Frame)
            self.begun -= size_on_wire(len(event.data))
            if event.opcode is not Opcode.PONG:
                self.frames.append(event)


class TestIsPong:
    def test_an_empty_one_whatever_its_mask(self) -> None:
        assert is_pong(PONG + os.urandom(4))
        assert is_pong(frame(b"", Opcode.PONG))

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            PONG,
            PONG + bytes(5),  # and the beginning of another frame
            b"\x8a\x00" + bytes(4),  # not masked
            b"\x0a\x80" + bytes(4),  # a control frame in pieces
            b"\x89\x80" + bytes(4),  # a ping
            b"\x88\x80" + bytes(4),  # a close frame
            frame(b"1", Opcode.PONG),
        ],
        ids=("nothing", "cut", "two", "unmasked", "in pieces", "ping", "close", "with a payload"),
    )
    def test_nothing_else(self, data: bytes) -> None:
        assert not is_pong(data)


class TestSizeOnWire:
    @pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 100_000])
    def test_what_a_client_sends(self, size: int) -> None:
        assert size_on_wire(size) == len(frame(bytes(size)))


class TestBoundary:
    # contract 4.1, 6.1: whatever a client's bytes look like, and however TCP cuts them

    def test_what_looks_like_a_pong_inside_of_a_frame_is_not_passed_over(self) -> None:
        reader = Reader()
        message = b"\x82\x86" + bytes(4) + PONG + b"abcd"  # masked with zeros
        for cut in range(1, len(message)):
            reader.feed(message[:cut])
            reader.feed(message[cut:])
        assert [bytes(each.data) for each in reader.frames] == [PONG + b"abcd"] * (len(message) - 1)
        assert reader.passed_over == 0

    def test_a_longer_length_than_need_be_only_makes_it_slower(self) -> None:
        reader = Reader()
        reader.feed(b"\x82\xfe" + struct.pack("!H", 1) + bytes(4) + b"x")
        reader.feed(PONG + bytes(4))
        reader.feed(frame(b"y"))
        assert [bytes(each.data) for each in reader.frames] == [b"x", b"y"]
        assert reader.passed_over == 0

    @given(
        st.lists(st.sampled_from([b"", b"a", PONG + b"1234", PONG + bytes(4), bytes(200)]), max_size=8),
        st.data(),
    )
    def test_however_the_stream_is_cut(self, payloads: list[bytes], data: st.DataObject) -> None:
        stream = b"".join(
            b"\x82"
            + (bytes([0x80 | len(each)]) if len(each) < 126 else b"\xfe" + struct.pack("!H", len(each)))
            + bytes(4)
            + each
            + PONG
            + bytes(4)
            for each in payloads
        )
        reader = Reader()
        while stream:
            size = data.draw(st.integers(1, len(stream)) | st.just(min(6, len(stream))))
            reader.feed(stream[:size])
            stream = stream[size:]
        assert [bytes(each.data) for each in reader.frames] == payloads
        assert reader.begun == 0
