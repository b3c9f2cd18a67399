"""Ours, the peers and the floor, side by side on this machine: `python -m benchmarks`, or `make bench`.

The environment says what to run: ONLY, a part of a result's name; ROUNDS, in place of each benchmark's own number;
RESULTS, the file that is written, with a page of the same name beside it. The last line is `BENCH {…}`.
"""

import json
import os
import platform
import sys
import traceback
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.page import VERDICTS, page
from benchmarks.result import Result, figure, ratio
from benchmarks.world import World

MODULES: Final = (
    *("publishing", "fanout", "direct", "idle", "heartbeats", "commands", "storm", "size"),
    "rollback",  # last: its servers are the demo's, and take the longest
)
PACKAGES: Final = ("Django", "channels", "channels_redis", "redis", "uvicorn", "gunicorn", "pyuwsgi", "gevent")
WIDTH: Final = 176  # of the table where it goes to a file
ROOT: Final = Path(__file__).resolve().parent.parent


def main() -> int:
    """Measure what was asked for; 1 if something could not be measured."""
    only = os.environ.get("ONLY", "").casefold()
    rounds = os.environ.get("ROUNDS", "")
    if rounds and not (rounds.isdecimal() and int(rounds)):
        print(f"ROUNDS={rounds} is not a number of rounds: say 1 or more, or leave it out.", file=sys.stderr)
        return 2
    results: list[Result] = []
    failed: dict[str, str] = {}
    world = World(rounds=int(rounds) if rounds else None)
    names = []
    with world, world.progress:
        console = world.progress.console
        modules = {name: import_module(f"benchmarks.{name}") for name in MODULES}  # they need Django's settings
        names = [name for module in modules.values() for name in module.NAMES]
        wanted = {n: m for n, m in modules.items() if any(only in name.casefold() for name in (n, *m.NAMES))}
        total = world.progress.add_task("benchmarks", total=len(wanted))
        for name, module in wanted.items():
            try:
                for result in module.measures(world):
                    results.append(result)
                    console.print(_line(result), highlight=False, soft_wrap=True)
            except Exception as error:  # noqa: BLE001  # one that cannot run must not cost the others
                failed[name] = f"{type(error).__name__}: {error}"
                console.print(
                    f"{name} could not run\n{traceback.format_exc()}", style="red", highlight=False, markup=False
                )
            world.progress.advance(total)
    if not wanted:
        print(f"ONLY={only}: no benchmark has that in its name. There are: {'; '.join(names)}.", file=sys.stderr)
        return 2
    Console(width=None if sys.stdout.isatty() else WIDTH).print(_table(results))
    path = Path(os.environ.get("RESULTS") or ROOT / "benchmarks" / "results.json")
    _write(path, results, failed)
    summary: dict[str, Any] = {
        "met": sum(result.met is True for result in results),
        "missed": sum(result.met is False for result in results),
        "results": str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path),
    }
    if failed:
        summary["failed"] = sorted(failed)
    print("BENCH " + json.dumps(summary, separators=(",", ":")), flush=True)
    return 1 if failed else 0


def _line(result: Result) -> str:
    against = [f"{ratio(result.ours_vs_peer)} of the peer"] * (result.ours_vs_peer is not None)
    against += [f"{ratio(result.ours_vs_floor)} of the floor"] * (result.ours_vs_floor is not None)
    return f"{result.name}: {figure(result.ours)} {result.unit}  {', '.join(against)}"


def _table(results: list[Result]) -> Table:
    table = Table(box=SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    for column in ("ours", "peer", "floor", "ours / peer", "ours / floor"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("target")
    table.add_column("")
    for result in results:
        table.add_row(
            result.name,
            result.unit,
            *(figure(value) for value in (result.ours, result.peer, result.floor)),
            ratio(result.ours_vs_peer),
            ratio(result.ours_vs_floor),
            "; ".join(map(str, result.bounds)),
            VERDICTS[result.met],
            style="" if result.met is not False else "red",
        )
    return table


def _write(path: Path, results: list[Result], failed: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([result.plain() for result in results], indent=1, ensure_ascii=False) + "\n")
    environment = {
        "Python": platform.python_version(),
        "machine": f"{os.cpu_count()} CPUs, {platform.system()} {platform.machine()}",
        "packages": ", ".join(f"{package} {version(package)}" for package in PACKAGES),
    }
    document = page(results, at=datetime.now(UTC), environment=environment, failed=failed)
    path.with_suffix(".html").write_text(document)


if __name__ == "__main__":
    raise SystemExit(main())
