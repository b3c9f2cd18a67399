"""What the hub sees of a connection, and of the way to its client."""

from collections.abc import Mapping, Sequence
from typing import Protocol as Interface

from shim.core.protocol import Frame, Protocol
from shim.core.wire import Position


class Sink(Interface):
    """A connection's way to its client. No method blocks or raises.

    Attributes:
        last_heard: monotonic time of the last thing, of whatever kind, that came from the client (contract 7.1).
    """

    @property
    def last_heard(self) -> float:
        """See the class."""

    def send(self, frame: Frame) -> None:
        """Take a frame for the client."""

    def send_batch(self, frames: Sequence[Frame]) -> None:
        """Take frames that may together be over the backlog limit (contract 7.2): history after a resume."""

    def ping(self) -> None:
        """Send a WebSocket ping; never asked for where the backend cannot (`pings=False`)."""

    def close(self, code: int, reason: str) -> None:
        """Say goodbye after what has been sent, and end within a bounded time."""

    def subscribed(self) -> None:
        """All of the connection's topics are confirmed by Redis."""


class Member(Interface):
    """What the hub knows of a connection."""

    @property
    def protocol(self) -> Protocol:
        """What its client speaks."""

    @property
    def sink(self) -> Sink:
        """The way to its client."""

    @property
    def own(self) -> frozenset[str]:
        """Origins of messages that it does not get back (contract 6.5); empty where it gets them."""

    @property
    def wants_last(self) -> bool:
        """Whether it begins with the last message of each topic for which it has no position (contract 5.2)."""

    def joined(self, positions: Mapping[str, Position | None], recovered: Mapping[str, bool]) -> None:
        """The connection is attached: a v1 client is told `ready` now, before any message.

        Args:
            positions: where each topic stands, by label; None on a wire without positions.
            recovered: of those that it came back with, whether it gets all that it missed.
        """
