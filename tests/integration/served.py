"""`make serve` as a test sees it: a program with a READY line, and the processes below it."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from demo.stack import ROOT

PATIENCE: Final = 60.0


class Served:
    """A running `python -m demo serve`.

    Args:
        port_base: the first of its ports.
        env: more variables for it.
    """

    def __init__(self, port_base: int, env: Mapping[str, str] = {}) -> None:
        self.port_base = port_base
        self.process = subprocess.Popen(
            [sys.executable, "-m", "demo", "serve"],
            cwd=ROOT,
            env=clean_environment() | {"PORT_BASE": str(port_base), **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.ready: dict[str, Any] = {}

    def wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], PATIENCE)[0], "no READY line"
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.process.communicate(timeout=PATIENCE)[1])
        word, _, rest = line.partition(" ")
        assert word == "READY", line
        self.ready = json.loads(rest)

    def python(self, code: str) -> str:
        """Run a program in the checkout with the variables of READY, and nothing else of ours; its output."""
        done = subprocess.run(
            [sys.executable, "-c", f"import django; django.setup()\n{code}"],
            check=False,
            cwd=ROOT,
            env=clean_environment() | self.ready["env"],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def family(self) -> set[int]:
        """The program and every process below it."""
        return descendants(self.process.pid)

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            self.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode

    def tidy(self) -> None:
        """Throw away what it wrote."""
        shutil.rmtree(ROOT / "var" / f"demo-{self.port_base}", ignore_errors=True)


def clean_environment() -> dict[str, str]:
    """Ours, without what the tests' own Django goes by."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("DJANGO_", "REALTIME_", "REDIS_"))
    }


def descendants(pid: int) -> set[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            if stat.rpartition(") ")[2].split()[0] != "Z":
                parents[int(entry.name)] = int(stat.rpartition(") ")[2].split()[1])
    found = {pid} & parents.keys()
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def alive(pids: set[int]) -> set[int]:
    """Those that still run; a zombie does not."""
    found = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            found.add(pid)
    return found


def wait_until(condition: Callable[[], object], timeout: float = PATIENCE, what: str = "") -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, what or "the condition did not come true"
        time.sleep(0.02)
