"""Debian packages for the tests: asked for where that is allowed, and never in silence where it is not."""

import os
from pathlib import Path

import pytest

from tests import debian


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An `apt-get` that "installs" the file `program` beside itself, on a Debian where we are root."""
    program = tmp_path / "program"
    script = tmp_path / "apt-get"
    script.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/said\n[ "$1" = update ] || touch {program}\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: {"ID": "debian"})
    return program


def said(program: Path) -> list[str]:
    file = program.parent / "said"
    return file.read_text().splitlines() if file.exists() else []


def test_what_is_missing_is_installed_once(apt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert debian.install({"thing": apt}) == []
    assert said(apt) == ["update -qq", "install -qq --no-install-recommends thing"]
    assert debian.install({"thing": apt}) == []
    assert len(said(apt)) == 2
    assert "SKIPPED" not in capsys.readouterr().out


@pytest.mark.parametrize("why", ["not root", "not Debian", "fails"])
def test_what_cannot_be_installed_is_named(
    apt: Path, why: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if why == "not root":
        monkeypatch.setattr("os.geteuid", lambda: 1000)
    elif why == "not Debian":
        monkeypatch.setattr("platform.freedesktop_os_release", lambda: {"ID": "ubuntu"})
    else:
        (apt.parent / "apt-get").write_text("#!/bin/sh\necho no network\nexit 100\n")
    assert debian.install({"thing": apt}) == ["thing"]
    out = capsys.readouterr().out
    assert "thing is missing, and what needs it is SKIPPED: apt-get install thing" in out
    assert ("no network" in out) == (why == "fails")
    assert said(apt) == []
