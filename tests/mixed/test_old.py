"""Where the original package cannot be had, that is said, and nothing else happens."""

import sys
from pathlib import Path

import pytest

from tests.mixed import old


@pytest.mark.parametrize(
    "candidates", [[], ["/no/such/python3.9"], [sys.executable]], ids=["none", "one that is gone", "one that is new"]
)
def test_no_python_of_its_age(
    candidates: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(old, "_candidates", lambda: iter(candidates))
    old.prepare()
    said = capsys.readouterr().out
    assert said.startswith("tests: the fleet of old and new processes is SKIPPED: ")
    assert "there is no Python 3.9 or 3.10 on PATH, in pyenv or in uv" in said


def test_packages_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, ...]] = []
    run = old._run

    def refuse(*command: str) -> None:
        asked.append(command)
        run("/bin/sh", "-c", "echo 'WARNING: retrying' >&2; echo 'ERROR: no matching distribution' >&2; exit 1")

    monkeypatch.setattr(old, "HOME", tmp_path / "home")
    monkeypatch.setattr(old, "_python", lambda: Path("/usr/bin/python3.9"))
    monkeypatch.setattr(old, "_run", refuse)
    for _ in range(2):  # what failed is tried anew: nothing claims to be ready
        with pytest.raises(old.CannotBeHad, match="ERROR: no matching distribution"):
            old.environment()
    assert [command[:4] for command in asked] == [("/usr/bin/python3.9", "-I", "-m", "venv")] * 2


def test_a_command_that_hangs_or_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(old, "INSTALL_TIMEOUT", 0.1)
    for command in (("/bin/sleep", "5"), ("/no/such/program",)):
        with pytest.raises(old.CannotBeHad, match=command[0]):
            old._run(*command)
