"""The pytest plugin, as a project's CI uses it: on servers of its own, and on those that run already."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract_tests.project.servers import ContractServers
from contract_tests.servers import free_ports
from tests.integration.served import clean_environment

WITHOUT_IT = [
    *(f"django.contrib.{name}" for name in ("auth", "contenttypes", "sessions")),
    *("waffle", "shim"),
]
ROOT = Path(__file__).resolve().parents[2]


def run(folder: Path, *options: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """pytest, in a folder without tests and without configuration."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "contract_tests.plugin", "-p", "no:cacheprovider", *options],
        cwd=folder,
        env={**clean_environment(), "PYTHONPATH": str(ROOT), **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )


def test_it_adds_a_test_for_each_backend(tmp_path: Path) -> None:
    options = ("--realtime-backend", "legacy", "--realtime-backend", "channels", "--collect-only", "-q")
    done = run(tmp_path, *options)
    assert [line for line in done.stdout.splitlines() if "contract" in line] == [
        "::contract[legacy]",
        "::contract[channels]",
    ]


def test_it_does_nothing_where_no_backend_is_named(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text("def test_one() -> None:\n    pass\n")
    done = run(tmp_path, "-q")
    assert done.returncode == 0
    assert "1 passed" in done.stdout


@pytest.mark.servers
def test_it_runs_the_contract_and_passes(tmp_path: Path) -> None:
    page = tmp_path / "contract.html"
    done = run(tmp_path, "--realtime-backend", "memory", "--realtime-report", str(page))
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
    assert "The contract holds on memory" in page.read_text()


@pytest.mark.servers
def test_it_judges_the_backend_and_not_the_suite(tmp_path: Path) -> None:
    page = tmp_path / "contract.html"
    options = ("--realtime-profile", "ci", "--realtime-examples", "1", "--realtime-report", str(page))
    done = run(tmp_path, "--realtime-backend", "memory", *options)
    assert done.returncode == 0, done.stdout
    assert "mutants killed" not in page.read_text()


def test_a_run_that_fails_says_its_own_words(tmp_path: Path) -> None:
    done = run(tmp_path, "--realtime-backend", "nobody's")
    assert done.returncode == 1
    assert "there is no driver nobody's" in done.stdout
    assert "plugin.py" not in done.stdout  # where we noticed is of no use to anybody


class Foreign(ContractServers):
    """Servers that another process has started, and whose notes are on Redis."""

    def seed(self) -> None:
        self.env["CONTRACT_NOTES"] = "redis"
        subprocess.run(
            [sys.executable, "-m", "django", "migrate", "--verbosity", "0"],
            env={**clean_environment(), **self.env, "PYTHONPATH": str(ROOT)},
            check=True,
            timeout=60,
        )


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[dict[str, str]]:
    """What the settings of the project that runs there need."""
    with Foreign(free_ports(), directory=tmp_path / "foreign") as servers:
        yield servers.env


@pytest.mark.servers
def test_it_runs_on_servers_that_run_already(tmp_path: Path, foreign: dict[str, str]) -> None:
    options = ("--realtime-running", "--realtime-examples", "4", "-v")
    done = run(tmp_path, "--realtime-backend", "mixed", *options, env=foreign)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"REALTIME_LEGACY_URL": "wss://127.0.0.1:1/ws/"}, "behind what ends TLS"),
        ({"REALTIME_LEGACY_URL": "ws://127.0.0.1:1/ws/"}, "legacy cannot be reached at 127.0.0.1:1"),
        ({"CONTRACT_SETTINGS": json.dumps({"REALTIME_PACE": {}})}, "contract_tests.app.pace.PACE"),
        ({"CONTRACT_SETTINGS": json.dumps({"INSTALLED_APPS": WITHOUT_IT})}, 'Add "contract_tests.app"'),
    ],
)
def test_what_is_not_prepared_is_said_with_the_remedy(tmp_path: Path, settings: dict[str, str], remedy: str) -> None:
    env = {"DJANGO_SETTINGS_MODULE": "contract_tests.project.settings", "REALTIME_REDIS_URL": "redis://127.0.0.1:1/0"}
    done = run(tmp_path, "--realtime-backend", "legacy", "--realtime-running", env={**env, **settings})
    assert done.returncode == 1
    assert remedy in " ".join(done.stdout.split())
