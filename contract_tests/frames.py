"""Rules in which a client makes its frames by hand: cut, mixed, spoiled (contract 6.1, 6.3)."""

from typing import Any, Final, cast

from hypothesis import strategies as st

from contract_tests.life import message_payload, mirrored
from contract_tests.link import Ending, Link
from contract_tests.machine import PICK, Basics, step
from contract_tests.model import Item
from contract_tests.sockets import SocketClient
from contract_tests.values import LIMIT, SENT
from contract_tests.wire import BINARY, CLOSE, CONTINUATION, PING, TEXT, close_frame, fragments, frame

_BYTEWISE: Final = 200  # bytes that are sent one by one at most

FORBIDDEN: Final[dict[str, tuple[int, bytes]]] = {
    "compressed": (1002, frame(TEXT, b"x", rsv=4)),
    "reserved bit": (1002, frame(BINARY, b"x", rsv=1)),
    "reserved opcode": (1002, frame(3, b"x")),
    "reserved control": (1002, frame(11, b"x")),
    "orphan continuation": (1002, frame(CONTINUATION, b"x")),
    "message in a message": (1002, frame(TEXT, b"a", fin=False) + frame(TEXT, b"b")),
    "unmasked": (1002, frame(TEXT, b"x", masked=False)),
    "long ping": (1002, frame(PING, b"x" * 126)),
    "ping in parts": (1002, frame(PING, b"x", fin=False)),
    "half a close code": (1002, frame(CLOSE, b"\x03")),
    "reserved close code": (1002, close_frame(1005)),
    "unknown close code": (1002, close_frame(999)),
    "bad UTF-8": (1007, frame(TEXT, b"\xff\xfe")),
    "surrogate": (1007, frame(TEXT, b"\xed\xa0\x80")),
    "overlong": (1007, frame(TEXT, b"\xc0\x80")),
    "bad UTF-8 over frames": (1007, frame(TEXT, b"\xe2\x82", fin=False) + frame(CONTINUATION, b"x")),
    "half a character": (1007, frame(TEXT, b"\xe2\x82", fin=False) + frame(CONTINUATION, b"")),
    "bad UTF-8 in a close": (1007, close_frame(1000, b"\xff")),
    "far too big": (1009, b"\x82\xff" + (1 << 40).to_bytes(8) + b"\0\0\0\0"),
    "too big in parts": (1009, frame(BINARY, bytes(LIMIT), fin=False) + frame(CONTINUATION, bytes(LIMIT))),
}
"""Bytes that RFC 6455 or the contract forbids on any connection, and the close code that answers them (6.3)."""


class Frames(Basics):
    """For systems whose clients send frames."""

    @step(
        pick=PICK,
        values=st.lists(SENT, min_size=1, max_size=4),
        cuts=st.integers(0, 3),
        pings=st.booleans(),
        bytewise=st.booleans(),
    )
    def send_in_parts(self, pick: int, values: list[Any], cuts: int, pings: bool, bytewise: bool) -> None:
        """A client sends messages in fragments, with pings in between, perhaps byte by byte."""
        link = self.link(pick)
        if link is None:
            return
        for number, value in enumerate(values):
            link.allowed.expect(*mirrored(link, value, None))
            between = b""
            if pings:
                between = frame(PING, b"%d" % number)
                link.allowed.expect(*[Item("pong", "pong", "7.1", id=b"%d" % number) for _ in range(cuts)])
            data = fragments(*message_payload(link.v1, value), cuts, between)
            wire(link).send(data, bytewise=bytewise and len(data) < _BYTEWISE)
        self.life.settle()
        self.life.hold("6.1")

    @step(pick=PICK, what=st.sampled_from(sorted(FORBIDDEN)), before=st.lists(SENT, max_size=2))
    def send_forbidden(self, pick: int, what: str, before: list[Any]) -> None:
        """A client sends what no client may, and messages before it, in one go: they count."""
        link = self.link(pick)
        if link is None:
            return
        code, data = FORBIDDEN[what]
        self.life.must_end(link, Ending.by(code, "6.3"))
        for value in before:
            link.allowed.expect(*mirrored(link, value, None))
        wire(link).send(b"".join(frame(*message_payload(link.v1, value)) for value in before) + data)
        self.life.settle()
        self.life.hold("6.3")


def wire(link: Link) -> SocketClient:
    """A connection's client, which has a socket where there are frames."""
    return cast("SocketClient", link.client)
