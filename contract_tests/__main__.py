"""`python -m contract_tests`: the contract, executed on every backend.

    python -m contract_tests [--profile quick|ci|deep] [--examples N] [--backends legacy,memory,…] [--seed N]

The variables PROFILE, EXAMPLES, BACKENDS, SEED and MUTANTS of the environment say the same. Each driver runs in a
process of its own, on servers of its own; where the contract holds, the mutants follow (`contract_tests.mutants`). The
last line is `CONTRACT {…}`, for programs.
"""

import argparse
import json
import os
import platform
import secrets
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from contract_tests.clauses import CLAUSES, ELSEWHERE
from contract_tests.driver import Driver
from contract_tests.drivers import DRIVERS, driver_named
from contract_tests.mutants.mutant import MutantError
from contract_tests.mutants.phase import Phase, chosen
from contract_tests.report import Broken, Column, Report, page
from contract_tests.run import Order

_OWN_SETTINGS: Final = {"DJANGO_SETTINGS_MODULE": "contract_tests.project.settings"}
SILENCE: Final = 300.0  # seconds without a word from a driver: it hangs
LINE_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Profile:
    """How much is done: so many lives of so many steps, and so many times what takes seconds.

    Attributes:
        seed: what chance begins with; None is another each time. database: a folder that keeps examples that failed,
            where the next run begins. mutants: which are run, as `MUTANTS=` says it.
    """

    examples: int
    steps: int
    acts: int
    seed: int | None = None
    database: str | None = "var/contract-examples"
    mutants: str = "1"


PROFILES: Final[Mapping[str, Profile]] = {
    "quick": Profile(40, 20, 1, seed=1, database=None, mutants="0"),
    "ci": Profile(1_000, 22, 3),
    "deep": Profile(10_000, 32, 10),
}


@dataclass(slots=True)
class Run:
    """One driver's run as seen from here."""

    order: Order
    task: TaskID
    process: subprocess.Popen[bytes] | None = None
    lives: int = 0
    steps: int = 0
    held: Counter[str] = field(default_factory=Counter)
    failure: dict[str, str] | None = None
    heard: float = field(default_factory=time.monotonic)
    rest: bytes = b""
    seconds: float = 0.0

    @property
    def failed(self) -> int:
        """1 if the contract did not hold."""
        return int(self.failure is not None)


def main(arguments: Sequence[str]) -> int:
    """Run it; the exit code."""
    told = _told(arguments)
    profile = PROFILES[told.profile]
    seed = told.seed if told.seed is not None else profile.seed
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    names = [name.strip() for name in told.backends.split(",") if name.strip()]
    try:
        kinds = {name: driver_named(name) for name in names}
        mutants = chosen("0" if told.running else told.mutants or profile.mutants)
    except (LookupError, MutantError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    console = Console(stderr=True)
    console.print(f"contract: profile {told.profile}, seed {seed}, {', '.join(names)}", highlight=False)
    folder = Path(tempfile.mkdtemp(prefix="contract-"))
    columns = (TextColumn("{task.description:10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        runs = [
            Run(
                Order(
                    driver=name,
                    examples=told.examples or profile.examples,
                    steps=profile.steps,
                    acts=profile.acts,
                    seed=seed,
                    directory=str(folder / name),
                    database=told.database or profile.database,
                    redis_url=told.redis_url,
                    running=told.running,
                ),
                progress.add_task(name, total=told.examples or profile.examples),
            )
            for name in names
        ]
        try:
            # One driver cuts everybody's connections to a Redis that they share, and turns the flag that they share.
            shared = told.running or told.redis_url
            _carry_out(runs, 1 if shared else told.jobs, progress, console)
        finally:
            for run in runs:
                _end(run)
    for run in runs:
        _show_failure(run, console)
    console.print(_matrix(runs))
    for name, kind in kinds.items():
        for what, why in kind.missing.items():
            console.print(f"{name} has no {what}: {why}", style="dim", highlight=False, soft_wrap=True)
    failed = sum(run.failed for run in runs)
    phase = Phase(
        () if failed else mutants,
        names,
        folder=folder / "mutants",
        jobs=1 if told.redis_url else told.jobs,
        redis_url=told.redis_url,
    )
    phase.carry_out(console)
    phase.show(console)
    if told.report:
        found = Report(
            told.profile, seed, datetime.now(UTC), [_column(run, kinds) for run in runs], phase.rows, _environment()
        )
        path = Path(told.report)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page(found), encoding="utf-8")
        console.print(f"report: {path}", highlight=False, soft_wrap=True)
    unseen = _unseen(runs)
    if unseen:
        console.print(f"Nobody looked at {', '.join(unseen)}.", style="bold red", highlight=False, soft_wrap=True)
    is_good = not failed and not unseen and phase.is_good
    if is_good:
        shutil.rmtree(folder, ignore_errors=True)
    sys.stdout.write("CONTRACT " + json.dumps(_summary(runs, phase), separators=(",", ":")) + "\n")
    sys.stdout.flush()
    return 0 if is_good else 1


def _told(arguments: Sequence[str]) -> argparse.Namespace:
    env = os.environ
    parser = argparse.ArgumentParser(prog="python -m contract_tests", description="The contract, executed.")
    parser.add_argument("--profile", choices=list(PROFILES), default=env.get("PROFILE") or "ci")
    parser.add_argument("--examples", type=int, default=int(env.get("EXAMPLES") or 0), help="lives for each driver")
    parser.add_argument("--backends", default=env.get("BACKENDS") or ",".join(DRIVERS), help="drivers, with commas")
    parser.add_argument("--seed", type=int, default=int(env["SEED"]) if env.get("SEED") else None)
    parser.add_argument("--database", default=env.get("CONTRACT_DATABASE"), help="folder of examples that failed")
    parser.add_argument("--redis-url", default=env.get("REDIS_URL"), help="use this Redis instead of Valkeys")
    parser.add_argument("--running", action="store_true", help="on the servers of DJANGO_SETTINGS_MODULE's REALTIME")
    parser.add_argument("--report", default=env.get("REPORT"), metavar="FILE", help="write the result as an HTML page")
    parser.add_argument("--mutants", default=env.get("MUTANTS"), help="0, 1, or names with commas")
    parser.add_argument("--jobs", type=int, default=(os.cpu_count() or 1) + 1, help="drivers that run at a time")
    return parser.parse_args(arguments)


def _carry_out(runs: Sequence[Run], jobs: int, progress: Progress, console: Console) -> None:
    waiting = list(runs)
    next_line = time.monotonic() + LINE_SECONDS
    with selectors.DefaultSelector() as ready:
        while waiting or ready.get_map():
            while waiting and len(ready.get_map()) < jobs:
                run = waiting.pop(0)
                _start(run)
                assert run.process is not None  # noqa: S101  # for the type checker
                assert run.process.stdout is not None  # noqa: S101
                ready.register(run.process.stdout, selectors.EVENT_READ, run)
            for key, _ in ready.select(1.0):
                if not _hear(key.data):
                    ready.unregister(key.fileobj)
                    _conclude(key.data)
            now = time.monotonic()
            for key in list(ready.get_map().values()):
                if now - key.data.heard > SILENCE:
                    ready.unregister(key.fileobj)
                    _end(key.data)
                    key.data.failure = {"clause": "", "text": f"it said nothing for {SILENCE:g} s", "program": ""}
            for run in runs:
                progress.update(run.task, completed=run.lives)
            if progress.disable and now >= next_line:
                next_line = now + LINE_SECONDS
                line = ", ".join(f"{run.order.driver} {run.lives}/{run.order.examples}" for run in runs)
                console.print(line, highlight=False)


def _start(run: Run) -> None:
    run.heard = time.monotonic()
    run.seconds = run.heard
    Path(run.order.directory).parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{run.order.directory}.log").open("wb") as log:
        run.process = subprocess.Popen(  # noqa: S603  # ourselves
            [sys.executable, "-m", "contract_tests.run", json.dumps(asdict(run.order))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, "PYTHONHASHSEED": "0", **({} if run.order.running else _OWN_SETTINGS)},
        )


def _hear(run: Run) -> bool:
    """Take what a driver says; False when it has ended."""
    assert run.process is not None  # noqa: S101  # for the type checker
    assert run.process.stdout is not None  # noqa: S101
    data = os.read(run.process.stdout.fileno(), 65_536)
    run.heard = time.monotonic()
    *lines, run.rest = (run.rest + data).split(b"\n")
    for line in lines:
        said: dict[str, Any] = json.loads(line)
        run.lives = said.get("lives", run.lives)
        run.steps = said.get("steps", run.steps)
        run.failure = said.get("failure", run.failure)
        if "done" in said:
            run.held.update(said["done"]["held"])
    return bool(data)


def _conclude(run: Run) -> None:
    assert run.process is not None  # noqa: S101  # for the type checker
    code = run.process.wait(60)
    run.seconds = time.monotonic() - run.seconds
    if code and run.failure is None:
        log = Path(f"{run.order.directory}.log").read_text(errors="replace")
        run.failure = {"clause": "", "text": f"the run itself failed ({code}):\n{log[-4_000:]}", "program": ""}


def _end(run: Run) -> None:
    if run.process is not None and run.process.poll() is None:
        run.process.terminate()
        try:
            run.process.wait(20)
        except subprocess.TimeoutExpired:
            run.process.kill()
            run.process.wait(20)


def _show_failure(run: Run, console: Console) -> None:
    if run.failure is None:
        return
    console.rule(f"{run.order.driver}: broken")
    console.print(run.failure["text"], markup=False, highlight=False, soft_wrap=True)
    if run.failure["program"]:
        console.print("\nThe shrunk program, as a test (python -m pytest --noconftest):\n", markup=False)
        console.print(run.failure["program"], markup=False, highlight=False, soft_wrap=True)
        console.print(f"Servers' logs: {run.failure['logs']}", markup=False, soft_wrap=True)


def _matrix(runs: Sequence[Run]) -> Table:
    table = Table(title="clauses", title_justify="left", title_style="bold")
    table.add_column("clause")
    table.add_column("")
    for run in runs:
        table.add_column(run.order.driver, justify="right")
    for clause, what in CLAUSES.items():
        broken = [run.failure["clause"] if run.failure else "" for run in runs]
        cells = [
            "[bold red]broken[/]" if clause == bad else f"{run.held[clause]:,}" if run.held[clause] else "[dim]-[/]"
            for run, bad in zip(runs, broken, strict=True)
        ]
        note = f" [dim]({ELSEWHERE[clause].what}: elsewhere)[/]" if clause in ELSEWHERE else ""
        table.add_row(clause, what + note, *cells)
    table.add_section()
    table.add_row("", "examples", *(f"{run.lives:,}" for run in runs))
    table.add_row("", "steps", *(f"{run.steps:,}" for run in runs))
    table.add_row("", "ms a step", *(f"{1000 * run.seconds / max(run.steps, 1):.1f}" for run in runs))
    return table


def _column(run: Run, kinds: Mapping[str, type[Driver]]) -> Column:
    failure, name = run.failure, run.order.driver
    broken = Broken(failure["clause"], failure["text"], failure["program"]) if failure else None
    return Column(name, run.lives, run.steps, run.seconds, dict(run.held), broken, dict(kinds[name].missing.items()))


def _environment() -> dict[str, str]:
    packages = (
        "Django",
        "django-waffle",
        "redis",
        "channels",
        "uvicorn",
        "gunicorn",
        "gevent",
        "websockets",
        "hypothesis",
    )
    found = {"Python": platform.python_version(), "machine": f"{platform.platform()}, {os.cpu_count()} cores"}
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _unseen(runs: Sequence[Run]) -> list[str]:
    """Clauses that a whole run has not looked at: all drivers together look at all of them, on servers of their own."""
    is_whole = DRIVERS.keys() <= {run.order.driver for run in runs}
    if not is_whole or any(run.failed or run.order.running for run in runs):
        return []
    held = {clause for run in runs for clause in run.held}
    return [clause for clause in CLAUSES if clause not in held]


def _summary(runs: Sequence[Run], phase: Phase) -> dict[str, Any]:
    covered = {clause for run in runs for clause in run.held}
    return {
        "drivers": {
            run.order.driver: {"examples": run.lives, "steps": run.steps, "failed": run.failed} for run in runs
        },
        "clauses": {"total": len(CLAUSES), "covered": len(covered & CLAUSES.keys())},
        "mutants": phase.summary,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
