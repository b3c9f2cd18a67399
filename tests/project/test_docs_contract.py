"""docs/how-to/run-the-contract.md: its programs run, its options exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from contract_tests.driver import Driver
from tests.integration.served import clean_environment
from tests.project.pages import DOCS, blocks

PAGE = DOCS / "how-to" / "run-the-contract.md"
ROOT = Path(__file__).resolve().parents[2]


def program(word: str) -> str:
    """The one Python block with a word."""
    (found,) = [each.text for each in blocks(PAGE) if each.language == "python" and word in each.text]
    return found


@pytest.mark.servers
def test_a_shrunk_life_is_lived_again(tmp_path: Path) -> None:
    (tmp_path / "test_shrunk.py").write_text(program("test_shrunk"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--noconftest", "-p", "no:cacheprovider", "-q", "test_shrunk.py"],
        cwd=tmp_path,
        env={**clean_environment(), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_a_driver_is_as_short_as_shown() -> None:
    space: dict[str, object] = {}
    exec(program("class Mine"), space)  # our own page
    mine = space["Mine"]
    assert isinstance(mine, type)
    assert issubclass(mine, Driver)
    assert set(mine.places) <= {"legacy", "channels"}


def test_what_may_be_declared_exists() -> None:
    named = re.findall(r"^\| `(\w+)` \| (?!.*everybody|.*same topics|.*in-memory)", PAGE.read_text(), re.MULTILINE)
    assert {"has_frames", "handlers_wait", "can_stop_redis", "margin"} == set(named)
    for name in named:
        assert hasattr(Driver, name)


def test_the_options_exist(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "contract_tests.plugin", "--help"],
        cwd=tmp_path,
        env={**clean_environment(), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    named = set(re.findall(r"--realtime-\w+", PAGE.read_text()))
    assert named == set(re.findall(r"--realtime-\w+", done.stdout))
