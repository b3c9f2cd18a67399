"""`make matrix`: the contract's quick profile on every Python, Django and Redis that we say we support.

    python -m tests.matrix [--pythons 3.12,3.13] [--djangos 5.2,6.0,6.1] [--redis valkey,redis] [--dry-run]

The variables PYTHONS, DJANGOS and REDIS of the environment say the same. Each pair of Python and Django gets an
environment of its own, `.venv-matrix/<python>-django<series>`, made once and kept while its pins stay the same. What
cannot be had here is skipped, loudly, with the reason. The last line is `MATRIX {…}`, for programs.
"""

import argparse
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from tests import debian

ROOT: Final = Path(__file__).resolve().parent.parent
PLACE: Final = ROOT / ".venv-matrix"
PYTHONS: Final = ("3.12", "3.13")
REDISES: Final = ("valkey", "redis")
REDIS_SERVER: Final = Path("/usr/bin/redis-server")
REDIS_LEAST: Final = 7
INSTALL_SECONDS: Final = 600.0
RUN_SECONDS: Final = 900.0
START_SECONDS: Final = 20.0


class Unavailable(Exception):
    """A cell cannot be had on this machine; the message says why, and what would help."""


@dataclass(slots=True)
class Cell:
    """One combination, and what came of it.

    Attributes:
        outcome: `passed`, `failed` or `skipped`; empty before its turn. note: why, or the figures.
    """

    python: str
    django: str
    redis: str
    outcome: str = ""
    note: str = ""
    seconds: float = 0.0
    said: str = field(default="", repr=False)

    @property
    def name(self) -> str:
        return f"Python {self.python}, Django {self.django}, {self.redis}"


def main(arguments: Sequence[str]) -> int:
    """Run it; the exit code."""
    told = _told(arguments)
    console = Console(stderr=True)
    cells = [
        Cell(python, django, redis)
        for python, django, redis in product(told.pythons.split(","), told.djangos.split(","), told.redis.split(","))
    ]
    if told.dry_run:
        for cell in cells:
            console.print(cell.name, highlight=False)
        return 0
    for number, cell in enumerate(cells, 1):
        started = time.monotonic()
        console.print(f"[dim]{number}/{len(cells)}[/] {cell.name} …", highlight=False)
        try:
            _fill(cell)
        except Unavailable as error:
            cell.outcome, cell.note = "skipped", str(error)
        cell.seconds = time.monotonic() - started
        console.print(f"      {_coloured(cell.outcome)} {cell.note}", highlight=False)
        if cell.outcome == "failed":
            console.print(cell.said[-8_000:], markup=False, highlight=False, soft_wrap=True)
    console.print(_table(cells))
    counts = {outcome: sum(cell.outcome == outcome for cell in cells) for outcome in ("passed", "failed", "skipped")}
    sys.stdout.write("MATRIX " + json.dumps({**counts, "cells": [_plain(cell) for cell in cells]}) + "\n")
    return int(counts["failed"] > 0 or counts["passed"] == 0)


def series() -> dict[str, str]:
    """The pinned version of each supported Django series, oldest first."""
    lines = (ROOT / "requirements" / "django.txt").read_text().splitlines()
    versions = [line.removeprefix("Django==") for line in lines if line.startswith("Django==")]
    return {".".join(version.split(".")[:2]): version for version in versions}


def find_python(version: str) -> Path:
    """The interpreter of a version, on PATH, in pyenv or in uv.

    Raises:
        Unavailable: there is none that runs.
    """
    candidates = [shutil.which(f"python{version}") or ""]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    candidates += [str(path) for path in sorted(pyenv.glob(f"{version}*/bin/python"), reverse=True)]
    if uv := shutil.which("uv"):
        candidates.append(_output(uv, "python", "find", "--no-python-downloads", version).strip())
    for candidate in filter(None, candidates):
        if _output(candidate, "-Ic", "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])") == version:
            return Path(candidate)
    raise Unavailable(f"no Python {version} on PATH, in pyenv or in uv")


def _told(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make matrix", description=(__doc__ or "").partition("\n")[0])
    variable = os.environ.get
    parser.add_argument("--pythons", default=variable("PYTHONS") or ",".join(PYTHONS))
    parser.add_argument("--djangos", default=variable("DJANGOS") or ",".join(series()))
    parser.add_argument("--redis", default=variable("REDIS") or ",".join(REDISES))
    parser.add_argument("--dry-run", action="store_true", help="say what would be run, and end")
    told = parser.parse_args(arguments)
    for name, given, known in (("Django", told.djangos, tuple(series())), ("Redis", told.redis, REDISES)):
        if unknown := set(given.split(",")) - set(known):
            parser.error(f"no such {name}: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return told


def _fill(cell: Cell) -> None:
    python = _environment(find_python(cell.python), cell)
    command = [str(python), "-m", "contract_tests", "--profile", "quick"]
    with _redis(cell.redis) as url:
        if url:
            command += ["--redis-url", url]
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=_clean(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=RUN_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            cell.outcome, cell.note = "failed", f"no end after {RUN_SECONDS:g} s"
            cell.said = str(error.stderr or b"")
            return
    cell.said = done.stderr
    last = (done.stdout.splitlines() or [""])[-1]
    cell.outcome = "failed" if done.returncode or not last.startswith("CONTRACT ") else "passed"
    if last.startswith("CONTRACT "):
        drivers = json.loads(last.removeprefix("CONTRACT "))["drivers"]
        cell.note = ", ".join(f"{name} {counts['examples']}" for name, counts in drivers.items()) + " examples"
    else:
        cell.note = f"exit {done.returncode}"


def _environment(python: Path, cell: Cell) -> Path:
    """An interpreter with the pinned packages, and this cell's Django in place of the pinned one.

    Raises:
        Unavailable: a package has no wheel for it.
    """
    lines = (ROOT / "requirements" / "run.txt").read_text() + (ROOT / "requirements" / "test.txt").read_text()
    pins = [line for line in lines.splitlines() if "==" in line and not line.startswith(("#", "Django=="))]
    pins.append(f"Django=={series()[cell.django]}")
    place = PLACE / f"{cell.python}-django{cell.django}"
    version = _output(str(python), "-Ic", "import sys; print(sys.version)")
    print_of_pins = hashlib.sha256("\n".join([version, str(place), *pins]).encode()).hexdigest()
    stamp = place / ".ready"
    if stamp.exists() and stamp.read_text() == print_of_pins:
        return place / "bin" / "python"
    shutil.rmtree(place, ignore_errors=True)
    subprocess.run([str(python), "-Im", "venv", str(place)], check=True, timeout=INSTALL_SECONDS)
    found = place / "bin" / "python"
    wanted = place / "pins.txt"
    wanted.write_text("\n".join(pins) + "\n")
    pip = [str(found), "-Im", "pip", "install", "--disable-pip-version-check", "--no-input", "--quiet"]
    done = subprocess.run(
        [*pip, "--only-binary", ":all:", "--requirement", str(wanted)],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
    )
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if line.startswith("ERROR")), "pip failed")
        raise Unavailable(f"its packages cannot be installed: {reason[:200]}")
    stamp.write_text(print_of_pins)
    return found


@contextmanager
def _redis(kind: str) -> Iterator[str | None]:
    """A server's URL; None lets the suite start its own Valkey.

    Raises:
        Unavailable: there is none, or it is too old.
    """
    if kind == "valkey":
        yield None
        return
    if debian.install({"redis-server": REDIS_SERVER}):
        raise Unavailable("no redis-server: apt-get install redis-server")
    told = _output(str(REDIS_SERVER), "--version")
    version = told.partition("v=")[2].partition(" ")[0]
    if not version or int(version.partition(".")[0]) < REDIS_LEAST:
        raise Unavailable(f"redis-server is {version or told!r}, older than {REDIS_LEAST}")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="matrix-redis-") as folder:
        server = subprocess.Popen(
            [str(REDIS_SERVER), "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", folder],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_for(port, server)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait(10)


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), 1.0) as connection:
                connection.settimeout(1.0)
                connection.sendall(b"PING\r\n")
                if connection.recv(64).startswith(b"+PONG"):
                    return
        except OSError:
            pass
        time.sleep(0.05)
    raise Unavailable(f"redis-server does not answer on port {port}")


def _clean() -> dict[str, str]:
    """The environment without what another Python, Django or run was told."""
    foreign = ("PYTHON", "DJANGO", "REALTIME_", "VIRTUAL_ENV", "PROFILE", "EXAMPLES", "BACKENDS", "SEED", "MUTANTS")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)}


def _output(*command: str) -> str:
    try:
        done = subprocess.run(
            command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def _plain(cell: Cell) -> dict[str, str | float]:
    return {
        "python": cell.python,
        "django": cell.django,
        "redis": cell.redis,
        "outcome": cell.outcome,
        "note": cell.note,
        "seconds": round(cell.seconds, 1),
    }


def _coloured(outcome: str) -> str:
    colour = {"passed": "green", "failed": "bold red", "skipped": "bold yellow"}[outcome]
    return f"[{colour}]{outcome.upper() if outcome != 'passed' else outcome}[/]"


def _table(cells: Sequence[Cell]) -> Table:
    table = Table(title="matrix", title_justify="left", title_style="bold")
    for column in ("Python", "Django", "Redis", "", ""):
        table.add_column(column)
    table.add_column("seconds", justify="right")
    for cell in cells:
        table.add_row(cell.python, cell.django, cell.redis, _coloured(cell.outcome), cell.note, f"{cell.seconds:.0f}")
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
