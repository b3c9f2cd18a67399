"""docs/how-to/run-the-contract.md: its programs run, its options exist."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from contract_tests.driver import Driver
from contract_tests.drivers import driver_named
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


@pytest.mark.servers
def test_a_driver_of_somebody_elses_is_run(tmp_path: Path) -> None:
    (tmp_path / "mysite").mkdir()
    (tmp_path / "mysite" / "contract.py").write_text(program("class Mine"))
    command = [sys.executable, "-m", "contract_tests", "--backends", "mysite.contract.Mine", "--profile", "quick"]
    assert " ".join(command[1:]) in PAGE.read_text()
    done = subprocess.run(
        [*command, "--examples", "2"],
        cwd=tmp_path,
        env={**clean_environment(), "PYTHONPATH": f"{ROOT}:{tmp_path}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ((name, found),) = json.loads(done.stdout.removeprefix("CONTRACT "))["drivers"].items()
    assert name == "mysite.contract.Mine"
    assert found["examples"] >= 2
    assert not found["failed"]


@pytest.mark.parametrize(
    "name", ["nobody", "nobody.at.All", "contract_tests.driver.Nobody", "contract_tests.link.Link"]
)
def test_a_driver_that_is_none_is_named(name: str) -> None:
    with pytest.raises(LookupError, match=re.escape(name)):
        driver_named(name)


def test_what_may_be_declared_exists() -> None:
    named = re.findall(r"^\| `(\w+)` \| (?!.*everybody|.*same topics|.*in-memory)", PAGE.read_text(), re.MULTILINE)
    assert {"missing", "can_stop_redis", "margin"} == set(named)
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
