"""`python -m benchmarks`: every benchmark says what it is, and one of them runs."""

import ast
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.__main__ import MODULES

ROOT = Path(__file__).resolve().parents[2]
KEYS = {"name", "unit", "ours", "peer", "floor", "ours_vs_peer", "ours_vs_floor", "target", "met"}


def run(**environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DJANGO_", "REALTIME_"))}
    return subprocess.run(
        [sys.executable, "-m", "benchmarks"],
        cwd=ROOT,
        env={**kept, **environment},
        stdin=subprocess.DEVNULL,
        text=True,
        capture_output=True,
        check=False,
        timeout=100,
    )


@pytest.mark.parametrize("module", MODULES)
def test_it_opens_with_what_it_measures_and_why_that_is_fair(module: str) -> None:
    doc = ast.get_docstring(ast.parse((ROOT / "benchmarks" / f"{module}.py").read_text())) or ""
    assert "What is measured: " in doc
    assert "Why it is fair: " in doc


@pytest.mark.skipif(find_spec("channels_redis") is None, reason="the peers are installed for make bench alone")
def test_one_runs_and_writes_what_it_found(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    done = run(ONLY="sync publish", ROUNDS="1", RESULTS=str(path))
    assert done.returncode == 0, done.stderr
    results = json.loads(path.read_text())
    assert [result["name"].split()[0] for result in results] == ["1", "1", "2", "3", "3", "4"]
    assert all(result.keys() >= KEYS and result["ours"] > 0 for result in results)
    assert path.with_suffix(".html").read_text().count("<figure") == len(results)
    summary = json.loads(done.stdout.splitlines()[-1].removeprefix("BENCH "))
    assert summary["met"] + summary["missed"] == len(results)
    assert summary["results"] == str(path)


@pytest.mark.skipif(find_spec("channels_redis") is None, reason="the peers are installed for make bench alone")
def test_a_name_that_is_not_there_is_told_with_those_that_are() -> None:
    done = run(ONLY="nonsense")
    assert done.returncode == 2
    assert "5 fan-out, channels" in done.stderr


def test_rounds_are_a_number() -> None:
    done = run(ROUNDS="many")
    assert (done.returncode, done.stderr) == (
        2,
        "ROUNDS=many is not a number of rounds: say 1 or more, or leave it out.\n",
    )
