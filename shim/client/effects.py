"""What the state machine says: where it is, what it has counted, and what its shell has to do."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from shim.client.events import Event
from shim.client.frames import Received
from shim.core.wire import Position


class State(StrEnum):
    """Where a client is; see the diagram in `shim.client.protocol`."""

    IDLE = "idle"
    CONNECTING = "connecting"
    GREETING = "greeting"
    OPEN = "open"
    DROPPING = "dropping"
    WAITING = "waiting"
    CLOSED = "closed"


@dataclass(slots=True)
class Counters:
    """What has happened since the client was made; in a right system the last three stay 0.

    `gaps` counts what the server could not complete and said; it is 0 as long as history reaches back. `connects`
    counts every `ready`, so those of moves too; `losses` only connections whose end left the client without one.
    """

    received: int = 0
    connects: int = 0
    losses: int = 0
    moves_told: int = 0
    moved: int = 0
    moves_failed: int = 0
    gaps: int = 0
    duplicates_dropped: int = 0
    holes: int = 0
    protocol_errors: int = 0


@dataclass(frozen=True, slots=True)
class Deliver:
    """Hand a message to the application."""

    received: Received


@dataclass(frozen=True, slots=True)
class Settle:
    """From here on in the stream of messages, these are the positions: the server told them."""

    positions: Mapping[str, Position]


@dataclass(frozen=True, slots=True)
class Transmit:
    """Send a text frame on the connection that this is about."""

    text: str


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell the application of an event."""

    event: Event


@dataclass(frozen=True, slots=True)
class Probe:
    """Send a WebSocket ping; say to `tick` whether it was answered."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Close the connection with this code, then call `lost(…, ours=True)`."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Dial:
    """Open another connection, beside the present one; say `opened`, or `not_moved`, with this link.

    Attributes:
        link: its number. url: where. deadline: when to have given up, by the clock of the calls.
    """

    link: int
    url: str
    deadline: float


@dataclass(frozen=True, slots=True)
class Leave:
    """Close this link with 1000, without waiting for it; say `lost` when it is gone, as always."""

    link: int


type Effect = Deliver | Settle | Transmit | Tell | Probe | Drop | Dial | Leave
