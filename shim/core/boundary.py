"""Where a WebSocket frame ends: what makes the answer to a heartbeat cheap to read. Pure.

Theory of operation. Nearly all that a quiet client ever says is an empty pong: six bytes, which come alone. A parser
takes ten times as long for them as everything else that a heartbeat costs. Whoever reads may pass over them (they only
count as life, contract 7.1), if they are a frame and no piece of one. So it counts the bytes that it gives to the
parser, and takes off those of the frames that the parser gives back: at 0 there is no piece of a frame in between.

Bytes of a frame whose length was written longer than it need be are never all taken off. That is the safe side: then
every pong goes through the parser.
"""

from typing import Final

_HEAD: Final = b"\x8a\x80"  # FIN and the opcode of a pong; masked, and of no bytes (RFC 6455, section 5.2)
_SIZE: Final = 6  # the head and the mask


def is_pong(data: bytes) -> bool:
    """Whether these bytes are one empty pong of a client's, and nothing else; they begin where a frame does."""
    return len(data) == _SIZE and data.startswith(_HEAD)


def size_on_wire(payload: int) -> int:
    """The fewest bytes that a client's frame takes with a payload of so many."""
    return payload + (6 if payload < 126 else 8 if payload < 65_536 else 14)
