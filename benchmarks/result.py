"""What a benchmark has found, and how it is judged.

Ratios are plain quotients, `ours / peer` and `ours / floor`, in the unit of the measure: for seconds and bytes less is
better, for rates more is. A target is a bound on one of them, so it means the same on every machine.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import log
from random import Random
from statistics import mean, median
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Bound:
    """A bound on a ratio: `Bound("peer", "<=", 1 / 20)`."""

    of: Literal["peer", "floor", "ours"]
    sign: Literal["<=", ">="]
    value: float

    def is_met(self, result: "Result") -> bool | None:
        """Whether the result keeps it; None where that was not measured."""
        ratio = {"peer": result.ours_vs_peer, "floor": result.ours_vs_floor, "ours": result.ours}[self.of]
        if ratio is None:
            return None
        return ratio <= self.value if self.sign == "<=" else ratio >= self.value

    def __str__(self) -> str:
        if self.of == "ours":
            return f"{self.sign} {self.value:g}"
        return f"{self.sign} {self.value:.3g} of the {self.of}"


@dataclass(frozen=True, slots=True)
class Result:
    """One measure.

    Attributes:
        name, unit: of the measure. ours, peer, floor: medians in that unit; None was not measured.
        bounds: what it should be. details: further figures, for the curious.
        series: rounds or sizes behind the medians, by who: what the plot shows. axis: what the series run over.
    """

    name: str
    unit: str
    ours: float | None
    peer: float | None = None
    floor: float | None = None
    bounds: Sequence[Bound] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    series: Mapping[str, Sequence[float]] = field(default_factory=dict)
    axis: Sequence[float] = ()

    @property
    def ours_vs_peer(self) -> float | None:
        """The quotient."""
        return self.ours / self.peer if self.ours is not None and self.peer else None

    @property
    def ours_vs_floor(self) -> float | None:
        """The quotient."""
        return self.ours / self.floor if self.ours is not None and self.floor else None

    @property
    def met(self) -> bool | None:
        """Whether every bound is kept; None where none could be judged."""
        verdicts = [bound.is_met(self) for bound in self.bounds]
        if not verdicts or None in verdicts:
            return None
        return all(verdicts)

    def plain(self) -> dict[str, Any]:
        """As `results.json` has it."""
        return {
            "name": self.name,
            "unit": self.unit,
            "ours": self.ours,
            "peer": self.peer,
            "floor": self.floor,
            "ours_vs_peer": self.ours_vs_peer,
            "ours_vs_floor": self.ours_vs_floor,
            "target": "; ".join(map(str, self.bounds)),
            "met": self.met,
            **({"details": dict(self.details)} if self.details else {}),
        }


type Round = Callable[[], Sequence[float]]
"""One round of one candidate: the cost of each of its calls."""


def interleaved(candidates: Mapping[str, Round], rounds: int, on_round: Callable[[], None]) -> dict[str, list[float]]:
    """Run the candidates by turns; the median call of each round, by candidate.

    By turns, and beginning with another each time, so that what else the machine does falls on all of them.
    """
    names = list(candidates)
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            found[name].append(median(candidates[name]()))
            on_round()
    return found


def shuffled(
    calls: Mapping[str, tuple[Callable[[], object], int]], rounds: int, on_round: Callable[[], None]
) -> dict[str, list[float]]:
    """Run single calls in a shuffled order, so many of each in a round; the median µs of each round, by candidate."""
    clock, random = time.perf_counter, Random(1)
    order = [name for name, (_, times) in calls.items() for _ in range(times)]
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        random.shuffle(order)
        taken: dict[str, list[float]] = {name: [] for name in calls}
        for name in order:
            call = calls[name][0]
            started = clock()
            call()
            taken[name].append((clock() - started) * 1e6)
        for name, costs in taken.items():
            found[name].append(median(costs))
        on_round()
    return found


def figure(value: float | None) -> str:
    """A number for people: three digits that count."""
    if value is None:
        return "–"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def ratio(value: float | None) -> str:
    """A quotient for people."""
    return "–" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def slope(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Of the straight line nearest to the logarithms of both."""
    xs, ys = [log(size) for size in sizes], [log(cost) for cost in costs]
    x, y = mean(xs), mean(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum((a - x) ** 2 for a in xs)
