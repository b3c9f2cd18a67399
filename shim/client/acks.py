"""What has become of messages whose `ack` somebody awaits (contract 6.3)."""

from shim.client.events import Lost
from shim.client.frames import Ack, Refusal

type Outcome = Ack | Refusal | Lost | None
"""None as long as it is open; `Lost` when the connection ended first, and nobody can know."""


class Acks:
    """The open questions of one client; as many as there are callers waiting. Not thread-safe."""

    def __init__(self) -> None:
        self._outcomes: dict[int | str, Outcome] = {}

    def expect(self, id: int) -> None:
        """Somebody awaits the outcome of a message that is about to be sent."""
        self._outcomes[id] = None

    def outcome(self, id: int) -> Outcome:
        """What has become of it."""
        return self._outcomes.get(id)

    def forget(self, id: int) -> None:
        """Nobody awaits it any more."""
        self._outcomes.pop(id, None)

    def resolve(self, id: int | str | None, outcome: Ack | Refusal) -> None:
        """The server has answered; an answer that nobody awaits is let go."""
        if id is not None and id in self._outcomes:
            self._outcomes[id] = outcome

    def lose(self, lost: Lost) -> None:
        """The connection is gone, and with it every answer that was open."""
        for id, outcome in self._outcomes.items():
            if outcome is None:
                self._outcomes[id] = lost
