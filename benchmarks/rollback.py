"""13: the way back, with everybody on channels.

What is measured: 5,000 live v1 connections on two processes of channels, a turn of the flag to 0 %, and until each has
moved to legacy. Milliseconds from the turn until the first is told; seconds until the last has moved; and the 99th
percentile of what others wait who come in meanwhile at both backends, twenty a second, against the seconds before.

Why it is fair: our pace is the one that docs/explanation/pacing.md makes of what a move costs on this machine, both
servers and the client counted, since they share its CPUs. The peer is the same servers without a pace, so that all are
told at once, as with a fleet that drops its connections. The floor of the time is people divided by that rate: the
paced window.
"""

import asyncio
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.field import LEGACY
from benchmarks.result import Bound, Result
from benchmarks.world import World
from contract_tests.servers import free_ports
from tests.load.moves import Run, cost, percentile, run
from tests.load.stack import LoadStack

PEOPLE: Final = int(os.environ.get("CONNECTIONS") or 5_000)
SAMPLE: Final = 200  # handshakes by which their cost is found
DARING: Final = 0.15  # of what is free: half of what docs say that a fleet may dare
QUIET: Final = 10.0  # seconds
PATIENCE: Final = 60.0  # beside the window
PACED: Final = "paced"
AT_ONCE: Final = "all at once"
NAMES: Final = ("13 rollback, first told", "13 rollback, all moved", "13 rollback, others' p99")


def measures(world: World) -> Iterator[Result]:
    """The results."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, world.step("rollback", 3) as advance:
        with _stack(Path(folder), {}) as stack:
            seconds, busy = asyncio.run(cost(stack, SAMPLE, to=LEGACY))
        rate = round(DARING * (os.cpu_count() or 1) * (1 - busy) / seconds, 1)
        window = PEOPLE / rate
        advance()
        paced = _moved(Path(folder), {"fleet_moves": rate, "moves": rate}, window + PATIENCE)
        advance()
        try:
            at_once = _moved(Path(folder), {"fleet_moves": None, "moves": 1e6, "move_least": 0.0}, PATIENCE)
        except TimeoutError:  # it may never end
            at_once = None
        advance()
    runs = {PACED: paced, AT_ONCE: at_once}
    lost = {name: sum(bool(each.ends) for each in found.people) for name, found in runs.items() if found}
    more = {"people": PEOPLE, "rate": rate, "window s": round(window, 1), "lost": lost}
    firsts = {name: _first(found) for name, found in runs.items()}
    lasts = {name: found.ended - found.began if found else None for name, found in runs.items()}
    quiet, moving = ({name: _p99(found, part) for name, found in runs.items()} for part in ("quiet", "moving"))
    ratios = {name: _divided(moving[name], quiet[name]) for name in runs}
    first, last, others = NAMES
    yield Result(first, "ms", firsts[PACED], firsts[AT_ONCE], None, (Bound("ours", "<=", 250.0),), more)
    yield Result(last, "s", lasts[PACED], lasts[AT_ONCE], window, (Bound("floor", "<=", 1.1),), more)
    details = {"quiet ms": quiet, "moving ms": moving, **more}
    yield Result(others, "× quiet", ratios[PACED], ratios[AT_ONCE], None, (Bound("ours", "<=", 2.0),), details)


def _stack(folder: Path, pace: Mapping[str, Any]) -> LoadStack:
    return LoadStack(free_ports(), directory=folder / "stack", room=PEOPLE + 500, pace=pace)


def _moved(folder: Path, pace: Mapping[str, Any], patience: float) -> Run:
    with _stack(folder, pace) as stack:
        return asyncio.run(run(stack, PEOPLE, quiet=QUIET, patience=patience, to=LEGACY))


def _first(found: Run | None) -> float | None:
    told = [moment for each in found.people for moment in each.told] if found else []
    return (min(told) - found.began) * 1000 if found and told else None


def _p99(found: Run | None, part: str) -> float | None:
    visits = getattr(found, part) if found else []
    return percentile(visits, 99) if len(visits) > 1 else None


def _divided(one: float | None, other: float | None) -> float | None:
    return one / other if one and other else None
