"""`make test` and `make lint`: the checks one after the other, then pytest, then one line for programs.

    python -m tests [pytest arguments]    lint, then the tests
    python -m tests lint                  lint alone

Every step runs, whatever the ones before it said, so one run shows all there is to mend. The last line of a
test run is `TEST {"passed":…,"failed":…,"skipped":…,"seconds":…}`; a lint step counts as one check.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests import debian
from tests.mixed import old

# Most tests wait for servers and clients, so one process more than there are cores; a file's servers serve its tests.
PARALLEL = ("-n", str((os.cpu_count() or 1) + 1), "--dist", "loadfile")

ROOT = Path(__file__).resolve().parent.parent

LINT: tuple[tuple[str, ...], ...] = (
    ("ruff", "check", "--quiet"),
    ("ruff", "format", "--check", "--quiet"),
    ("mypy", "--no-error-summary"),
    ("lint-imports", "--no-logo"),
)


class Tally:
    """A pytest plugin that counts tests by outcome; an error in set-up or tear-down is a failure."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.outcomes[report.nodeid] = "failed"
        elif report.skipped or report.when == "call":
            self.outcomes.setdefault(report.nodeid, report.outcome)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.outcomes[report.nodeid] = "failed"

    def count(self, outcome: str) -> int:
        return list(self.outcomes.values()).count(outcome)


def lint() -> tuple[int, int]:
    """Runs each lint step and returns how many passed and how many failed."""
    failed = 0
    for step in LINT:
        started = time.monotonic()
        tool = Path(sys.executable).parent / step[0]
        done = subprocess.run(
            [tool, *step[1:]],
            cwd=ROOT,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        verdict = "FAILED" if done.returncode else "ok"
        print(f"lint: {' '.join(step):<32} {verdict:<7} {time.monotonic() - started:5.1f} s", flush=True)
        if done.returncode:
            failed += 1
            print(done.stdout, flush=True)
    return len(LINT) - failed, failed


def main(arguments: Sequence[str]) -> int:
    """Runs what the arguments ask for and returns the exit code: 0 only if nothing failed."""
    started = time.monotonic()
    passed, failed = lint()
    if list(arguments) == ["lint"]:
        return 1 if failed else 0
    if not arguments:  # the whole of it; who asks for a part gets that and nothing else
        debian.install()
        old.prepare()
        arguments = PARALLEL
    tally = Tally()
    code = pytest.main(list(arguments), plugins=[tally])
    result = {
        "passed": passed + tally.count("passed"),
        "failed": failed + tally.count("failed"),
        "skipped": tally.count("skipped"),
        "seconds": round(time.monotonic() - started, 1),
    }
    print("TEST " + json.dumps(result, separators=(",", ":")), flush=True)
    return 1 if failed or code else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
