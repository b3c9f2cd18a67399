"""What has become of messages that were sent: acks that somebody awaits, answers that are owed (contract 6.3)."""

from collections import Counter

from shim.client.events import Lost
from shim.client.frames import Ack, Refusal

type Outcome = Ack | Refusal | Lost | None
"""None as long as it is open; `Lost` when the connection ended first, and nobody can know."""


class Acks:
    """The open questions of one client; as many as there are callers waiting. Not thread-safe."""

    def __init__(self) -> None:
        self._outcomes: dict[int | str, Outcome] = {}
        self._links: dict[int | str, int] = {}
        self._owed: Counter[int] = Counter()

    def sent(self, link: int) -> None:
        """A message is about to be sent on a connection: a v1 server answers each, awaited or not."""
        self._owed[link] += 1

    def owed(self, link: int) -> int:
        """How many messages the server has not answered on a connection."""
        return self._owed[link]

    def expect(self, id: int, link: int = 0) -> None:
        """Somebody awaits the outcome of a message that is about to be sent on a connection."""
        self._outcomes[id] = None
        self._links[id] = link

    def outcome(self, id: int) -> Outcome:
        """What has become of it."""
        return self._outcomes.get(id)

    def forget(self, id: int) -> None:
        """Nobody awaits it any more."""
        self._outcomes.pop(id, None)
        self._links.pop(id, None)

    def resolve(self, id: int | str | None, outcome: Ack | Refusal, link: int = 0) -> None:
        """The server has answered; an answer that nobody awaits is let go."""
        if id is None:
            return
        if self._owed[link] > 0:
            self._owed[link] -= 1
        if id in self._outcomes:
            self._outcomes[id] = outcome

    def lose(self, lost: Lost, link: int | None = None) -> None:
        """A connection is gone (None: every one), and with it every answer that was open."""
        for id, outcome in self._outcomes.items():
            if outcome is None and link in (None, self._links[id]):
                self._outcomes[id] = lost
        if link is None:
            self._owed.clear()
        else:
            del self._owed[link]
