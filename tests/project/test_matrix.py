"""`make matrix`: it covers what we say we support, finds interpreters, and skips loudly."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests import matrix

ROOT = Path(__file__).resolve().parents[2]


def test_it_covers_what_we_say_we_support() -> None:
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    djangos = {text.rpartition(" ")[2] for text in classifiers if text.startswith("Framework :: Django :: ")}
    pythons = {
        text.rpartition(" ")[2] for text in classifiers if text.startswith("Programming Language :: Python :: 3.")
    }
    assert set(matrix.series()) == djangos
    assert set(matrix.PYTHONS) == pythons


def test_one_of_its_djangos_is_the_pinned_one() -> None:
    assert f"Django=={list(matrix.series().values())[-1]}" in (ROOT / "requirements" / "run.txt").read_text().split()


def test_a_python_that_is_there_is_found() -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = matrix.find_python(version)
    said = subprocess.run([found, "-V"], capture_output=True, text=True, check=True, timeout=30).stdout
    assert said.startswith(f"Python {version}.")


def test_a_python_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(matrix.Unavailable, match=r"no Python 3\.2 on PATH"):
        matrix.find_python("3.2")
    assert matrix.main(["--pythons", "3.2", "--djangos", "6.1", "--redis", "valkey"]) == 1  # nothing ran: no success
    told = capsys.readouterr()
    assert '"skipped": 1' in told.out
    assert "SKIPPED" in told.err


def test_what_is_unknown_is_refused_with_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        matrix.main(["--djangos", "4.2"])
    assert "no such Django: 4.2; there are 5.2, 6.0, 6.1" in capsys.readouterr().err
