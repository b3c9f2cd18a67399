"""Messages that have come and were not taken yet: bounded, and in step with what the application has seen."""

from collections import deque
from collections.abc import Mapping
from typing import Final

from shim.client.effects import Deliver, Settle
from shim.client.frames import Received
from shim.core.wire import Position

MAX_MESSAGES: Final = 1_000
MAX_BYTES: Final = 4 * 1_048_576


class Inbox:
    """A queue that says when it is full: then the socket is not read (contract 7.2 is the other end).

    It can exceed its bounds by one message. Not thread-safe: the shell serialises the calls.

    Args:
        messages: messages at which it is full. size: bytes (of their frames) at which it is full.
        positions: what the application has seen before the first message.

    Attributes:
        positions: of the last message taken of each topic, or told by the server since (contract 5.3). An application
            that stores them and gives them to its next client continues exactly after what it has taken.
    """

    def __init__(
        self, positions: Mapping[str, Position], *, messages: int = MAX_MESSAGES, size: int = MAX_BYTES
    ) -> None:
        self.positions = dict(positions)
        self._items: deque[tuple[Deliver | Settle, int]] = deque()
        self._max_messages = messages
        self._max_bytes = size
        self._messages = 0
        self._bytes = 0

    def __len__(self) -> int:
        """How many messages wait."""
        return self._messages

    @property
    def full(self) -> bool:
        """Whether nothing more should be put in for now."""
        return self._messages >= self._max_messages or self._bytes >= self._max_bytes

    def put(self, item: Deliver | Settle, size: int) -> None:
        """Add what the state machine has handed on; `size` is its frame's, in bytes or characters."""
        if isinstance(item, Settle) and not self._items:
            self.positions = dict(item.positions)
            return
        self._items.append((item, size))
        self._bytes += size
        self._messages += isinstance(item, Deliver)

    def take(self) -> Received | None:
        """The oldest message, None when there is none."""
        received = None
        while self._items and (received is None or isinstance(self._items[0][0], Settle)):
            item, size = self._items.popleft()
            self._bytes -= size
            if isinstance(item, Settle):
                self.positions = dict(item.positions)
                continue
            self._messages -= 1
            received = item.received
            if received.topic is not None and received.position is not None:
                self.positions[received.topic] = received.position
        return received

    def clear(self) -> None:
        """Drop what waits; `positions` stays at what was taken."""
        self._items.clear()
        self._messages = self._bytes = 0
