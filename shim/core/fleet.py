"""The fleet's rate: how many of a process's moves may happen just now, with all processes counted (contract 8.5). Pure.

Theory of operation. Redis's clock cuts time into rounds of half a second. Once a round, a process whose connections
wait to be moved announces on Redis how many it could move in the *next* round. It is told where its own stand in the
line of all that are announced for that round, and how long the line became that was announced for the round that
*runs*. So in each round every process knows the whole line and its own piece of it, and `dealt` gives the round's slots
to the line evenly. Nobody has to be asked again, no slot is given twice, and each process gets its share of each round,
whoever came first and however many they are.

Who comes after a flip has nothing announced for the round that runs, and need not wait for its end all the same: a slot
of it that the line has left over, one for each process, is given with the answer to whoever asks first.

A slot that is not used is lost, and nothing is ever owed: a flag that is turned back leaves no debt, and a hurry counts
from the next round on. Those who wait are done after their number divided by the rate, and two rounds.

Redis takes part for the rate alone. Where it does not answer, or too late, or this process is too slow to ask in each
round, the gate is open: then the process's own rate is all that holds. Nobody waits for an answer longer than
`PATIENCE_SECONDS`.
"""

from collections import deque
from dataclasses import dataclass
from math import ceil
from typing import Final

ROUND_SECONDS: Final = 0.5
PATIENCE_SECONDS: Final = 1.0
"""How long moves wait for Redis's answer before they go by the process's own rate."""

RETRY_SECONDS: Final = 1.0  # after a failure, before Redis is asked again
_SLACK: Final = 0.2  # a round's slots may be used so much later: the timer comes by ten times a second
_MISSES: Final = 3  # answers in a row that came to nothing, because this process was too slow to ask in each round
_GOLDEN: Final = 0.6180339887498949  # its multiples, without the whole part, fill the unit most evenly


@dataclass(frozen=True, slots=True)
class Round:
    """What Redis says to a process that announces moves.

    Attributes:
        number: of the round that runs. elapsed: seconds since it began.
        total: what all processes have announced for it, in the round before.
        place: what others have announced for the next round before this process did.
        spare: a slot of the round that runs, which nobody had and which is now this process's; -1 for none.
    """

    number: int
    elapsed: float
    total: int
    place: int
    spare: int = -1


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a process says to Redis.

    Attributes:
        wanted: how many it could move in the next round.
        claimed: the last round that it has announced something for: in that one it gets no spare slot. -1 for none.
        rate: moves a second of the whole fleet.
    """

    wanted: int
    claimed: int
    rate: float


def slots(number: int, rate: float) -> int:
    """How many moves a round has: over many rounds exactly the rate, however slow it is."""
    return ceil((number + 1) * ROUND_SECONDS * rate) - ceil(number * ROUND_SECONDS * rate)


def dealt(number: int, total: int, place: int, wanted: int, rate: float) -> range:
    """Which of a round's slots belong to one piece of the line.

    Args:
        number: of the round. total: the length of the line. place: where the piece begins. wanted: its length.
        rate: moves a second of the whole fleet.

    Returns:
        Numbers from 0 to `slots(number, rate)` - 1. The pieces of one line share no slot, and leave none over
        while anybody waits; none where the line was lost.
    """
    count = slots(number, rate)
    if place + wanted > total:
        return range(0)  # Redis has lost what was announced
    if total <= count:
        return range(place, place + wanted)
    # Slot m is for whoever stands at (m + turn) / count of the line. `turn` is another one in each round, so that who
    # is alone on a piece too short for a slot comes into one all the same, whatever the order of the announcements.
    turn = number * _GOLDEN % 1.0
    first, last = (ceil(at * count / total - turn) for at in (place, place + wanted))
    return range(first, last)


class Fleet:
    """The gate before a process's moves. Not thread-safe: the owner serialises the calls.

    Attributes:
        is_open: Redis is of no help just now: moves go by the process's own rate.
    """

    def __init__(self) -> None:
        self.is_open = False
        self._asked: float | None = None  # since when an answer is awaited
        self._wanted = 0  # what was asked for then
        self._claim: tuple[int, int, int] | None = None  # round, place, wanted: our piece of the line of that round
        self._next = 0.0  # when the next round begins, or Redis may be asked again
        self._slots: deque[float] = deque()  # moments from which one connection may be moved
        self._until = 0.0
        self._missed = 0

    def is_due(self, now: float) -> bool:
        """Whether it is time to announce something."""
        if self._asked is None:
            return now >= self._next
        if now - self._asked > PATIENCE_SECONDS:
            self.is_open = True
        return False

    def announce(self, wanted: int, rate: float, now: float) -> Announcement | None:
        """Announce how many connections could be moved in the next round, at the rate of the fleet.

        Returns:
            What to say to Redis, None for nothing: then nobody waits.
        """
        if wanted <= 0:
            self.is_open, self._missed, self._claim = False, 0, None
            return None
        self._asked, self._wanted = now, wanted
        return Announcement(wanted, self._claim[0] if self._claim else -1, rate)

    def answered(self, round: Round, rate: float, now: float) -> None:
        """Redis has answered: here are this round's slots."""
        asked, self._asked = self._asked, None
        claim, self._claim = self._claim, (round.number + 1, round.place, self._wanted)
        if asked is None or now - asked > ROUND_SECONDS:
            self._fall_open(now)  # what is announced so slowly is over before it is known
            return
        began = now - round.elapsed  # later than it was, by the way of the answer: so nobody is ever early
        self._next = began + ROUND_SECONDS
        self._until = self._next + _SLACK
        self._slots.clear()
        if claim is not None and claim[0] == round.number:
            mine = dealt(round.number, round.total, claim[1], claim[2], rate)
            self._missed = 0
        else:
            mine = range(round.spare, round.spare + 1) if round.spare >= 0 else range(0)
            self._missed += 1
        count = slots(round.number, rate)
        self._slots.extend(began + ROUND_SECONDS * slot / max(count, 1) for slot in mine)
        self.is_open = self._missed > _MISSES

    def next_turn(self, now: float) -> float | None:
        """When there is something to do: a slot to take, or a round to announce for. None where nobody knows."""
        if self.is_open or self._asked is not None:
            return None
        return min(self._slots[0], self._next) if self._slots and now <= self._until else self._next

    def unanswered(self, now: float) -> None:
        """Redis did not answer, or with an error."""
        self._asked = None
        self._fall_open(now)

    def take(self, now: float) -> bool:
        """Take the slot for one move, if there is one."""
        if self.is_open:
            return True
        if not self._slots or self._slots[0] > now or now > self._until:
            return False
        self._slots.popleft()
        return True

    def _fall_open(self, now: float) -> None:
        self.is_open = True
        self._claim = None
        self._slots.clear()
        self._next = now + RETRY_SECONDS
