"""What one connection may do, and what it gets to stay alive."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from shim.core.message import MAX_MESSAGE_BYTES
from shim.core.protocol import Frame


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may do. Seconds, and messages a second.

    Attributes:
        heartbeat: between pings (contract 7.1). answer: silence after a ping that ends the connection (7.1).
        hello: time for `hello` (4003). inbound_rate, inbound_burst: messages from the client (6.3, 1008).
        max_message: bytes of a message from the client (6.3, 1009).
        violations: seconds in which a second violation closes a v1 connection (6.3, "when repeated").
        reconnect: what clients are told about coming back, in milliseconds (8.5).
    """

    heartbeat: float = 25.0
    answer: float = 8.0
    hello: float = 10.0
    inbound_rate: float = 100.0
    inbound_burst: float = 200.0
    max_message: int = MAX_MESSAGE_BYTES
    violations: float = 10.0
    reconnect: Mapping[str, int] = field(default_factory=lambda: {"base_ms": 500, "cap_ms": 30_000, "spread_ms": 2_000})


@dataclass(frozen=True, slots=True)
class TextHeartbeat:
    """A text that a raw client gets every so many seconds, and may send: never a message (contract 7.1)."""

    text: str
    every: float

    @property
    def frame(self) -> Frame:
        """The frame that carries it."""
        return _text_frame(self.text)


@lru_cache(maxsize=8)
def _text_frame(text: str) -> Frame:
    return Frame(text.encode(), text=True)
