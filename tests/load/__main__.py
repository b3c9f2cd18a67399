"""Two thousand live connections change the backend, and newcomers do not wait for it: `python -m tests.load`.

The rate is the one that docs/explanation/pacing.md makes of what a move costs on this machine. The last line is
`MOVES {…}`: times are of newcomers, from connecting to `ready`, quiet and while the others move.
"""

import argparse
import asyncio
import json
import os
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from contract_tests.servers import free_ports
from demo.stack import BACKENDS
from tests.load.moves import Run, cost, most_within, percentile, run
from tests.load.plot import plot
from tests.load.stack import LoadStack

DARING: Final = 0.3  # of what is free: docs/explanation/pacing.md
SAMPLE: Final = 300  # handshakes by which their cost is found
QUIET: Final = 15.0  # seconds


def main() -> int:
    """Measure, move, and tell."""
    parser = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__)
    parser.add_argument("--connections", type=int, default=2_000)
    parser.add_argument("--rate", type=float, help="connections a second; default: by the formula")
    parser.add_argument("--unpaced", action="store_true", help="also all at once, to see what the pace is for")
    parser.add_argument("--plot", type=Path, help="draw it: an SVG file")
    told = parser.parse_args()
    _allow_sockets(4 * told.connections + 1_000)
    runs = []
    with tempfile.TemporaryDirectory(prefix="load-") as directory:
        if told.unpaced:
            runs.append(("All at once", _moved(Path(directory), told.connections, None)))
            _tell(runs[-1][1], None)
        rate = told.rate or _rate(Path(directory))
        runs.append((f"{rate:g} a second", _moved(Path(directory), told.connections, rate)))
    if told.plot:
        told.plot.write_text(plot(runs))
    return _tell(runs[-1][1], rate)


def _moved(directory: Path, connections: int, rate: float | None) -> Run:
    """Move everybody, in servers that are started for it."""
    pace: dict[str, Any] = {"fleet_moves": rate, "moves": rate or 1e6, "move_least": 1.0 if rate else 0.0}
    with _stack(directory, connections, pace) as stack:
        patience = 60.0 + (connections / rate if rate else 0.0)
        return asyncio.run(run(stack, connections, quiet=QUIET, patience=patience))


def _allow_sockets(n: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < n <= hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (n, hard))
    elif hard < n:
        sys.exit(f"{n} open files are needed, and {hard} are allowed: see `ulimit -Hn`, or give fewer --connections")


def _stack(directory: Path, connections: int, pace: dict[str, Any]) -> LoadStack:
    return LoadStack(free_ports(), directory=directory / "stack", room=connections + 500, pace=pace)


def _rate(directory: Path) -> float:
    """The rate that suits this machine, servers and clients together."""
    with _stack(directory, SAMPLE, {}) as stack:
        seconds, busy = asyncio.run(cost(stack, SAMPLE))
    cpus = os.cpu_count() or 1
    rate = DARING * cpus * (1 - busy) / seconds
    print(
        f"A move costs {seconds * 1000:.1f} ms of CPU; {cpus} CPUs are {busy:.0%} busy anyway: "
        f"fleet_moves = {DARING:g} · {cpus} · {1 - busy:.2f} / {seconds:.4f} = {rate:.0f} a second"
    )
    return round(rate, 1)


def _tell(seen: Run, rate: float | None) -> int:
    told = [moment for each in seen.people for moment in each.told]
    result: dict[str, Any] = {
        "connections": len(seen.people),
        "rate": rate,
        "seconds": round(seen.ended - seen.began, 1),
        "most_in_a_second": most_within(told, 1.0),
        "lost": sum(bool(each.ends) for each in seen.people),
        "visits": len(seen.quiet) + len(seen.moving),
        "refused": sum(visit.status != 101 for visit in (*seen.quiet, *seen.moving)),
    }
    print(f"\n{'newcomers, ms to `ready`':<26}{'quiet':>18}{'while others move':>20}{'ratio':>16}")
    print(f"{'':<26}{'p50':>9}{'p99':>9}{'p50':>11}{'p99':>9}{'p50':>8}{'p99':>8}")
    for name in (*BACKENDS, "both"):
        quiet, moving = (
            [visit for visit in visits if name in (visit.backend, "both")] for visits in (seen.quiet, seen.moving)
        )
        if len(quiet) < 2 or len(moving) < 2:
            continue
        numbers = [percentile(visits, percent) for visits in (quiet, moving) for percent in (50, 99)]
        ratios = [numbers[2] / numbers[0], numbers[3] / numbers[1]]
        print(
            f"{name:<26}{numbers[0]:>9.1f}{numbers[1]:>9.1f}{numbers[2]:>11.1f}{numbers[3]:>9.1f}"
            f"{ratios[0]:>8.2f}{ratios[1]:>8.2f}"
        )
        if name == "both":
            keys = ("quiet_p50_ms", "quiet_p99_ms", "moving_p50_ms", "moving_p99_ms")
            result |= {key: round(number, 1) for key, number in zip(keys, numbers, strict=True)}
            result |= {"ratio_p50": round(ratios[0], 2), "ratio_p99": round(ratios[1], 2)}
    print()
    print("MOVES " + json.dumps(result, separators=(",", ":")))
    return 1 if result["lost"] or result["refused"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
