"""What a run of the demo does to the system, and when: turns of the flag and, if asked for, faults. Pure."""

from dataclasses import dataclass, field
from itertools import cycle
from typing import Final, Literal, NamedTuple

from contract_tests.servers import CHANNELS, LEGACY

CALM: Final = ((0.15, 25), (0.4, 100), (0.75, 0))  # at which share of the time, to what percentage

TURN_SECONDS: Final = 3.0  # with faults: from one turn of the flag to the next
KILL_SECONDS: Final = 20.0  # and for each backend, from one kill to the next
RESTART_SECONDS: Final = 30.0
LEAST_TURNS: Final = 5
TURNED_AT: Final = 0.15  # of the time from turn to turn
STRUCK_AT: Final = 0.45  # while people move
BOTH: Final = (50, 65, 40, 55, 35, 60)  # percentages at which either backend has people to hurt
FAR: Final = (100, 25, 100, 0, 75, 10, 100, 0, 90, 30)


@dataclass(frozen=True, slots=True)
class Turn:
    """The flag is saved with this percentage."""

    percent: int


@dataclass(frozen=True, slots=True)
class Kill:
    """`kill -9` to one worker of this backend."""

    backend: str


@dataclass(frozen=True, slots=True)
class Restart:
    """Redis ends, told to (`stop`) or struck down (`kill -9`), and comes back with the data that it has on disk."""

    how: Literal["stop", "kill"]


class Cue(NamedTuple):
    """Something to do so many seconds after the traffic began."""

    at: float
    act: Turn | Kill | Restart


@dataclass(slots=True, eq=False)
class Flip:
    """A change of the flag, and who moved after it; moments of the monotonic clock, by protocol."""

    before: int
    percent: int
    at: float
    landings: dict[str, list[float]] = field(default_factory=lambda: {"v1": [], "raw": []})

    @property
    def moved(self) -> int:
        return sum(map(len, self.landings.values()))

    @property
    def first_ms(self) -> int | None:
        return _ms(min((at for each in self.landings.values() for at in each), default=None), self.at)

    @property
    def last_ms(self) -> int | None:
        return _ms(max((at for each in self.landings.values() for at in each), default=None), self.at)


@dataclass(slots=True, eq=False)
class Fault:
    """A fault, and whom it hit; moments of the monotonic clock.

    Attributes:
        until: when what was struck was there again. cut: connections that it broke, by protocol.
        returns: when each of them was back. refused: publishes and requests that failed meanwhile, and said so.
    """

    act: Kill | Restart
    at: float
    until: float | None = None
    cut: dict[str, int] = field(default_factory=lambda: {"v1": 0, "raw": 0})
    returns: list[float] = field(default_factory=list)
    refused: int = 0

    @property
    def name(self) -> str:
        if isinstance(self.act, Kill):
            return f"{self.act.backend} worker killed"
        return "Redis restarted" if self.act.how == "stop" else "Redis killed and restarted"

    @property
    def away_ms(self) -> int | None:
        return _ms(self.until, self.at)

    @property
    def first_ms(self) -> int | None:
        return _ms(min(self.returns, default=None), self.at)

    @property
    def last_ms(self) -> int | None:
        return _ms(max(self.returns, default=None), self.at)


def script(duration: float, *, faults: bool) -> list[Cue]:
    """What to do in so many seconds, in order. The last turn is the rollback, to 0 %.

    With faults there is a turn every three seconds; a kill of a worker of each backend every twenty; and a restart of
    Redis every thirty, in turn told to and struck down: 20, 3 and 3, and 2 in a minute, and one of each at least.
    """
    if not faults:
        return [Cue(share * duration, Turn(percent)) for share, percent in CALM]
    turns = max(LEAST_TURNS, round(duration / TURN_SECONDS))
    strikes = _strikes(max(1, int(duration / KILL_SECONDS)), max(1, int(duration / RESTART_SECONDS)))
    slot = duration / turns
    # Not in the first slot, where everybody is on legacy, nor in the last, where everybody comes back.
    places = {1 + int((n + 0.5) * (turns - 2) / len(strikes)): strike for n, strike in enumerate(strikes)}
    both, far = cycle(BOTH), cycle(FAR)
    cues, percent = [], 0
    for number in range(turns):
        before = percent
        while percent == before or (percent == 0 and number == turns - 2):
            percent = next(both if number in places else far)
        if number == turns - 1:
            percent = 0
        cues.append(Cue((number + TURNED_AT) * slot, Turn(percent)))
        if number in places:
            cues.append(Cue((number + STRUCK_AT) * slot, places[number]))
    return cues


def _strikes(kills: int, restarts: int) -> list[Kill | Restart]:
    """So many kills of each backend, with the restarts evenly among them."""
    some: list[Kill | Restart] = [Kill(backend) for _ in range(kills) for backend in (LEGACY, CHANNELS)]
    for number in reversed(range(restarts)):
        some.insert(round((number + 1) * len(some) / (restarts + 1)), Restart("kill" if number % 2 else "stop"))
    return some


def _ms(moment: float | None, since: float) -> int | None:
    return None if moment is None else round((moment - since) * 1000)
