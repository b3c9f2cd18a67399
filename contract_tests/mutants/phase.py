"""The mutants' part of a run: each mutant on its drivers, in processes of their own, and what became of it.

A mutant is killed when on each of its drivers a clause broke, and its mistake was really made there. Beside them, on
each driver, runs the control: the lives of all mutants without any mistake, with the same little patience. It must find
nothing, or the others' finds mean nothing.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from contract_tests import report
from contract_tests.mutants.catalogue import MUTANTS, mutant_named
from contract_tests.mutants.mutant import Mutant
from contract_tests.mutants.order import Order

KILLED: Final = "killed"
HELD: Final = "held"
EXAMPLES: Final = 40
"""Random lives of a mutant at most, and of the control."""

STEPS: Final = 22
SEED: Final = 1
SECONDS: Final = 240.0
"""For one mutant on one driver; it takes a few, and a minute where it survives."""

_TAIL: Final = 1_500  # characters of a log


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a mutant on one driver, or of the control.

    Attributes:
        mutant: None is the control. word: `killed`, and of the control `held`; anything else is not as it should be.
        clause: what broke. lives: so many were lived until then. text: more words, of what is not as it should be.
    """

    mutant: Mutant | None
    driver: str
    word: str
    clause: str = ""
    lives: int = 0
    text: str = ""

    @property
    def is_good(self) -> bool:
        """Whether it is as it should be."""
        return self.word == (HELD if self.mutant is None else KILLED)


def chosen(told: str) -> tuple[Mutant, ...]:
    """The mutants that `MUTANTS=` means: none for 0, all for 1, else names with commas between.

    Raises:
        MutantError: there is no mutant of a name.
    """
    if told in ("0", "1"):
        return MUTANTS if told == "1" else ()
    return tuple(mutant_named(name.strip()) for name in told.split(",") if name.strip())


class Phase:
    """The runs of some mutants.

    Args:
        mutants: which. drivers: those of a mutant's that are among these are run.
        folder: for servers' files. jobs: processes at a time. redis_url: None starts Valkeys.
        has_control: whether the control runs, too.
    """

    def __init__(
        self,
        mutants: Sequence[Mutant],
        drivers: Sequence[str],
        *,
        folder: Path,
        jobs: int,
        redis_url: str | None = None,
        has_control: bool = True,
    ) -> None:
        self.outcomes: list[Outcome] = []
        pairs = [(mutant, driver) for mutant in mutants for driver in mutant.drivers if driver in drivers]
        controls = [driver for driver in drivers if has_control and any(driver == each for _, each in pairs)]
        self._pairs: list[tuple[Mutant | None, str]] = [*((None, driver) for driver in controls), *pairs]
        self._folder = folder
        self._jobs = jobs
        self._redis_url = redis_url
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = Lock()
        self._is_over = False

    def carry_out(self, console: Console) -> None:
        """Run them all; what became of them is in `outcomes`."""
        if not self._pairs:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        columns = (TextColumn("{task.description:10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with (
            Progress(*columns, console=console, disable=not console.is_terminal) as progress,
            ThreadPoolExecutor(self._jobs) as pool,
        ):
            task = progress.add_task("mutants", total=len(self._pairs))
            try:
                for done in as_completed([pool.submit(self._run, *pair) for pair in self._pairs]):
                    self.outcomes.append(done.result())
                    progress.update(task, completed=len(self.outcomes))
                    if progress.disable and len(self.outcomes) % 10 == 0:
                        console.print(f"mutants {len(self.outcomes)}/{len(self._pairs)}", highlight=False)
            except BaseException:
                self._end()
                raise
        self.outcomes.sort(key=lambda each: self._pairs.index((each.mutant, each.driver)))

    @property
    def mutants(self) -> Mapping[Mutant, Sequence[Outcome]]:
        """The outcomes of each mutant."""
        found: dict[Mutant, list[Outcome]] = {}
        for each in self.outcomes:
            if each.mutant is not None:
                found.setdefault(each.mutant, []).append(each)
        return found

    @property
    def summary(self) -> dict[str, int]:
        """How many there are, and how many were killed on all their drivers."""
        killed = [mutant for mutant, runs in self.mutants.items() if all(run.is_good for run in runs)]
        return {"total": len(self.mutants), "killed": len(killed)}

    @property
    def rows(self) -> list[report.Mutant]:
        """The same, for the report."""
        return [
            report.Mutant(mutant.name, mutant.layer, mutant.what, each.word, each.clause, each.driver, each.lives)
            for mutant, runs in self.mutants.items()
            for each in runs
        ]

    @property
    def is_good(self) -> bool:
        """Whether every mutant was killed, and the control held."""
        return all(each.is_good for each in self.outcomes)

    def show(self, console: Console) -> None:
        """The table, and what is not as it should be."""
        if not self.outcomes:
            return
        table = Table(title="mutants", title_justify="left", title_style="bold")
        for name in ("mutant", "layer", "mistake", "killed by", "examples"):
            table.add_column(name, justify="right" if name == "examples" else "left")
        for mutant, runs in self.mutants.items():
            cells = [f"{run.clause} on {run.driver}" if run.is_good else f"[bold red]{run.word}[/]" for run in runs]
            lives = ", ".join(str(run.lives) for run in runs)
            table.add_row(mutant.name, mutant.layer, mutant.what, "\n".join(cells), lives)
        console.print(table)
        for each in self.outcomes:
            if each.is_good:
                continue
            name = "the control" if each.mutant is None else f"the mutant {each.mutant.name}"
            console.rule(f"{name} on {each.driver}: {each.word}")
            console.print(each.text or _REMEDIES[each.word], markup=False, highlight=False, soft_wrap=True)

    def _run(self, mutant: Mutant | None, driver: str) -> Outcome:
        name = "control" if mutant is None else mutant.name
        order = Order(
            driver=driver,
            mutant=None if mutant is None else mutant.name,
            seed=SEED,
            examples=EXAMPLES,
            steps=STEPS,
            directory=str(self._folder / f"{name}-{driver}"),
            redis_url=self._redis_url,
        )
        log = self._folder / f"{name}-{driver}.log"
        with log.open("wb") as file, self._started(order, file) as process:
            try:
                said, _ = process.communicate(timeout=SECONDS)
            except subprocess.TimeoutExpired:
                process.terminate()
                return Outcome(mutant, driver, "hangs", text=f"it took more than {SECONDS:g} s; see {log}")
            finally:
                with self._lock:
                    self._running.discard(process)
        if process.returncode:
            return Outcome(mutant, driver, "fails", text=f"{log}:\n{log.read_text(errors='replace')[-_TAIL:]}")
        return judged(mutant, driver, json.loads(said.splitlines()[-1]))

    def _started(self, order: Order, log: Any) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._is_over:
                raise KeyboardInterrupt
            process = subprocess.Popen(  # noqa: S603  # ourselves
                [sys.executable, "-m", "contract_tests.mutants.run", json.dumps(asdict(order))],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONHASHSEED": "0", "DJANGO_SETTINGS_MODULE": "contract_tests.project.settings"},
            )
            self._running.add(process)
        return process

    def _end(self) -> None:
        with self._lock:
            self._is_over = True
            for process in self._running:
                process.terminate()


def judged(mutant: Mutant | None, driver: str, found: Mapping[str, Any]) -> Outcome:
    """What a run's finds mean."""
    clause, text, lives = found["clause"], found["text"], found["lives"]
    if mutant is None:
        word = "broken" if text else HELD
        return Outcome(None, driver, word, clause, lives, f"{text}\n{found['program']}" if text else "")
    if not found["reached"]:
        return Outcome(mutant, driver, "not reached", clause, lives, text and f"{_REMEDIES['not reached']}\n{text}")
    if clause:
        return Outcome(mutant, driver, KILLED, clause, lives)
    return Outcome(mutant, driver, "names no clause" if text else "survived", "", lives, text)


_REMEDIES: Final = {
    "survived": "The suite is blind there: it needs a rule that shows this mistake, or a start that leads to it.",
    "not reached": "Nothing that was done comes to this code: the mutant needs a start that leads there.",
}
