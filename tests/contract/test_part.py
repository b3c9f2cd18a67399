import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from contract_tests.part import Part
from demo.stack import ROOT
from tests.integration.served import alive, descendants, wait_until

# A program with a worker, as servers are; it says both pids. "deaf" takes no SIGTERM.
PROGRAM = """
import os, signal, subprocess, sys, time
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(os.getpid(), worker.pid, flush=True)
if "brief" in sys.argv:
    worker.kill()
    sys.exit()
time.sleep(60)
"""


def part(folder: Path, *arguments: str) -> Part:
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return Part("program", command, env=dict(os.environ), cwd=folder, log=folder / "log")


def pids(log: Path) -> set[int]:
    wait_until(lambda: log.exists() and log.read_text().endswith("\n"), 10)
    return {int(word) for word in log.read_text().split()}


@pytest.mark.parametrize("arguments", [[], ["deaf"]])
def test_stop_ends_all_of_it(tmp_path: Path, arguments: list[str]) -> None:
    program = part(tmp_path, *arguments)
    program.start()
    family = pids(program.log)
    assert program.pid in family
    program.stop(0.3)
    assert not program.running
    wait_until(lambda: not alive(family), 5)  # the worker does not hold the pipe that tells of the end
    program.stop(0.3)  # idempotent


def test_it_ends_by_itself(tmp_path: Path) -> None:
    program = part(tmp_path, "brief")
    program.start()
    assert program.wait(10)
    assert not program.running
    assert program.tail().startswith(str(program.pid))
    program.stop(0)


def test_it_starts_again(tmp_path: Path) -> None:
    program = part(tmp_path)
    program.start()
    pids(program.log)
    program.stop(1)
    program.start()
    wait_until(lambda: len(program.log.read_text().splitlines()) == 2, 10)
    assert program.running
    program.stop(1)


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    missing = Part("nothing", ["/no/such/program"], env={}, cwd=tmp_path, log=tmp_path / "log")
    missing.start()
    assert missing.wait(10)
    assert "/no/such/program" in missing.tail()
    missing.stop(0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_does_not_outlive_its_owner(tmp_path: Path, number: int) -> None:
    owner = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, sys, time; from pathlib import Path; from tests.contract.test_part import part\n"
            "program = part(Path(sys.argv[1]), 'deaf'); program.start(); time.sleep(60)",
            str(tmp_path),
        ],
        cwd=ROOT,
    )
    family = pids(tmp_path / "log") | descendants(owner.pid)
    assert len(family) == 4  # the owner, the keeper, the program, its worker
    owner.send_signal(number)
    owner.wait(10)
    wait_until(lambda: not alive(family), 10, f"still there: {alive(family)}")
