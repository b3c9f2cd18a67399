"""What a client knows of its topics: nothing is handed on twice, and nothing that is missing goes unsaid.

* A topic's known position is that of the last message handed on, or one that the server told (`ready`, `gap`, `skip`).
* A message at or below it is a duplicate and is dropped; one that leaves seqs out is handed on and counted as a hole.
* An epoch changes only by `ready` or `gap`, and only `ready` can make a topic go back.

After a move (contract 8.3) the new connection repeats what came by the old one since `hello`. So it has a stream of its
own for each topic, from where `hello` asked, until that has caught up with what is known: what comes in between is
expected, and dropped without a word.
"""

from collections.abc import Mapping
from typing import Final

from shim.client.effects import Counters, Deliver, Effect, Settle, Tell
from shim.client.events import Gap, Hole
from shim.client.frames import Missing, Ready, Received, Skip
from shim.core.errors import shown
from shim.core.wire import Position

MAX_LEFT_EPOCHS: Final = 256


class Violated(Exception):
    """The server contradicts what it has said before; the text is the rule."""


class Topics:
    """The topics of one client over all of its connections.

    Args:
        positions: where to begin. counters: where to count.

    Attributes:
        positions: known position of each topic; what the next `hello` resumes after (contract 5.3).
    """

    def __init__(self, positions: Mapping[str, Position], counters: Counters) -> None:
        self.positions = dict(positions)
        self._counters = counters
        self._names: frozenset[str] = frozenset()
        self._streams: dict[str, Position] = {}  # of topics that are behind what is known
        self._left: dict[tuple[str, str], None] = {}  # epochs that a topic has left, oldest first

    def ready(self, ready: Ready, asked: Mapping[str, Position]) -> tuple[dict[str, Position], list[Effect]]:
        """A connection begins to carry the topics.

        Args:
            ready: what the server said.
            asked: what `hello` asked for: what was known then; another connection may have gone on since.

        Returns:
            Where the topics stand at the server, and what is told about it: to be done after `Settle(positions)`.
        """
        self._names = frozenset(ready.topics)
        known: dict[str, Position] = {}  # a topic that is not told is not ours any more: its position goes
        gaps: list[Effect] = []
        self._streams = {}
        told = {topic: position for topic, position in ready.topics.items() if position is not None}
        for topic, position in told.items():
            mine, since = self.positions.get(topic), asked.get(topic)
            came = ready.recovered.get(topic) is True and since is not None and _continues(since, position)
            if mine is not None and (came or self._covers(topic, mine, position, since)):
                known[topic] = mine  # the missing messages follow (contract 5.3), or came by another connection
                start = since if came and since is not None else position
                if start != mine:
                    self._streams[topic] = start
                continue
            known[topic] = position
            self._leave(topic, mine, position)
            if mine is not None:
                self._counters.gaps += 1
                gaps.append(Tell(Gap(topic, position, mine)))
        self.positions = known
        return told, gaps

    def message(self, received: Received) -> list[Effect]:
        """A message came by the connection that carries the topics.

        Raises:
            Violated: it cannot have been sent by a right server.
        """
        topic, position = received.topic, received.position
        if topic is not None and topic not in self._names:
            raise Violated(f"a message of {shown(topic)}, which ready did not name (contract 3.3)")
        if topic is None or position is None:
            return [self._handed_on(received)]
        before = self._step(topic, position)
        return [] if before is None else [*before, self._handed_on(received)]

    def skip(self, skip: Skip) -> list[Effect]:
        """In the place of a message of our own, which is not brought (contract 6.5): known, and not handed on.

        Raises:
            Violated: it cannot have been said by a right server.
        """
        if skip.topic not in self._names:
            raise Violated(f"a skip of {shown(skip.topic)}, which ready did not name (contract 3.3)")
        before = self._step(skip.topic, skip.position)
        return [] if before is None else [*before, Settle(dict(self.positions))]

    def direct(self, received: Received) -> list[Effect]:
        """A message for this connection alone."""
        return [self._handed_on(received)]

    def gap(self, missing: Missing) -> list[Effect]:
        """The server said `gap`.

        Raises:
            Violated: it cannot have been said by a right server.
        """
        topic, position = missing.topic, missing.position
        known = self.positions.get(topic)
        if topic not in self._names:
            raise Violated(f"a gap of {shown(topic)}, which ready did not name")
        if known is not None and self._is_skipped_already(topic, position, known):
            return []
        if (topic, position.epoch) in self._left or (known and _behind(position, known)):
            raise Violated(f"a gap that goes back; known is {known}")
        self._leave(topic, known, position)
        self.positions[topic] = position
        self._counters.gaps += 1
        return [Settle(dict(self.positions)), Tell(Gap(topic, position, known))]

    # Inside

    def _step(self, topic: str, position: Position) -> list[Effect] | None:
        """A topic goes on to a position. None: it was there before; else what is to be told first."""
        known = self.positions.get(topic)
        effects: list[Effect] = []
        if known is not None:
            if self._is_behind(topic, position, known):
                return None
            if position.epoch != known.epoch:
                raise Violated(f"a new epoch without gap; known is {known} (contract 7.4)")
            if position.seq <= known.seq:
                self._counters.duplicates_dropped += 1
                return None
            if position.seq > known.seq + 1:
                self._counters.holes += 1
                effects = [Tell(Hole(topic, position, known))]
        self.positions[topic] = position
        return effects

    def _covers(self, topic: str, mine: Position, told: Position, since: Position | None) -> bool:
        """Whether another connection has, since `hello` asked from `since`, brought or explained all up to `told`."""
        if mine == since or (since is not None and _behind(told, since)):
            return False
        if told.epoch == mine.epoch:
            return told.seq <= mine.seq
        return (topic, told.epoch) in self._left  # the server of the new connection does not know yet that it is over

    def _handed_on(self, received: Received) -> Deliver:
        self._counters.received += 1
        return Deliver(received)

    def _is_behind(self, topic: str, position: Position, known: Position) -> bool:
        """Whether a message belongs to what came by another connection; it may come once."""
        stream = self._streams.get(topic)
        if (
            stream is None
            or position.epoch != stream.epoch
            or (position.epoch == known.epoch and position.seq > known.seq)
        ):
            self._streams.pop(topic, None)
            return False
        if position.seq <= stream.seq:
            self._counters.duplicates_dropped += 1
        else:
            self._advance(topic, position, known)
        return True

    def _is_skipped_already(self, topic: str, position: Position, known: Position) -> bool:
        """Whether what `gap` says to be missing came by another connection, or was said to be missing there."""
        stream = self._streams.get(topic)
        if stream is None or _behind(position, stream):
            return False
        is_older = position.epoch == stream.epoch or (topic, position.epoch) in self._left
        if (is_older and position.epoch != known.epoch) or (
            position.epoch == known.epoch and position.seq <= known.seq
        ):
            self._advance(topic, position, known)
            return True
        del self._streams[topic]
        return False

    def _advance(self, topic: str, position: Position, known: Position) -> None:
        if position == known:
            del self._streams[topic]
        else:
            self._streams[topic] = position

    def _leave(self, topic: str, known: Position | None, position: Position) -> None:
        """Remember an epoch that is over, so that no stray `gap` leads back into it."""
        self._left.pop((topic, position.epoch), None)
        if known is not None and known.epoch != position.epoch:
            self._left[topic, known.epoch] = None
            if len(self._left) > MAX_LEFT_EPOCHS:
                del self._left[next(iter(self._left))]


def _continues(mine: Position, told: Position) -> bool:
    """Whether a topic that stands at `told` can have brought everything after `mine`."""
    return told.epoch == mine.epoch and told.seq >= mine.seq


def _behind(told: Position, known: Position) -> bool:
    return told.epoch == known.epoch and told.seq < known.seq
