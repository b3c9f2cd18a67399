"""A pytest plugin: the contract as tests, one for each backend.

    pytest --realtime-backend legacy --realtime-backend channels --realtime-profile ci

It does nothing where no backend is named. With `--realtime-running` the suite uses the servers that the project's own
settings name (`DJANGO_SETTINGS_MODULE`, `REALTIME`), which have `contract_tests.app` in INSTALLED_APPS; without it, it
starts servers of its own. See docs/how-to/run-the-contract.md.
"""

import json
import os
import selectors
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import pytest

TOLD_SECONDS: Final = 10.0
PROFILES: Final = ("quick", "ci", "deep")


class ContractBroken(Exception):
    """The run's own words, which say what broke, where, and how to see it again."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """See pytest."""
    group = parser.getgroup("realtime", "the realtime contract")
    group.addoption(
        "--realtime-backend",
        action="append",
        default=[],
        metavar="NAME",
        help="run the contract on it: legacy, channels, mixed or memory; may be given several times",
    )
    group.addoption(
        "--realtime-profile", choices=PROFILES, default="quick", help="how much of it: quick (the default), ci or deep"
    )
    group.addoption("--realtime-examples", type=int, metavar="N", help="so many random lives of each backend")
    group.addoption("--realtime-seed", type=int, metavar="N", help="what chance begins with: a failed run says its own")
    group.addoption(
        "--realtime-running",
        action="store_true",
        help="on the servers that the settings' REALTIME names, instead of servers of its own",
    )
    group.addoption("--realtime-report", metavar="FILE", help="write what was found as an HTML page")


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """One more test for each backend that was named."""
    names = dict.fromkeys(config.getoption("--realtime-backend"))
    items.extend(ContractItem.from_parent(session, name=f"contract[{name}]", backend=name) for name in names)


class ContractItem(pytest.Item):
    """The contract on one backend, in a process of its own: it has another Django than the tests beside it."""

    def __init__(self, *, backend: str, **others: Any) -> None:
        super().__init__(**others)
        self.backend = backend
        self.add_marker("realtime_contract")
        self.add_marker(pytest.mark.timeout(0))  # where pytest-timeout is there: a deep run takes hours

    def runtest(self) -> None:
        """Run it; what it says on the way is shown as it comes."""
        with subprocess.Popen(  # noqa: S603  # ourselves
            self._command(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_clean()
        ) as process:
            try:
                out, err = self._follow(process)
            except BaseException:
                process.terminate()
                raise
        if process.returncode:
            raise ContractBroken(err.decode(errors="replace").strip() or f"exit {process.returncode}")
        self.user_properties.append(("contract", json.loads(out.splitlines()[-1].removeprefix(b"CONTRACT "))))

    def _command(self) -> list[str]:
        told = self.config.getoption
        command = [sys.executable, "-m", "contract_tests", "--backends", self.backend]
        command += ["--profile", told("--realtime-profile")]
        command += ["--mutants", "0"]  # they judge the suite, which is this project's to do
        for option in ("examples", "seed"):
            if (value := told(f"--realtime-{option}")) is not None:
                command += [f"--{option}", str(value)]
        if told("--realtime-running"):
            command.append("--running")
        if (page := told("--realtime-report")) is not None:
            several = len(told("--realtime-backend")) > 1
            path = Path(page)
            command += ["--report", str(path.with_stem(f"{path.stem}-{self.backend}") if several else path)]
        return command

    def _follow(self, process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
        found = {process.stdout: b"", process.stderr: b""}
        told = time.monotonic()
        with selectors.DefaultSelector() as ready:
            for stream in found:
                if stream is not None:
                    ready.register(stream, selectors.EVENT_READ)
            while ready.get_map():
                for key, _ in ready.select(TOLD_SECONDS):
                    data = os.read(key.fd, 65_536)
                    if not data:
                        ready.unregister(key.fileobj)
                    found[key.fileobj] += data  # type: ignore[index]  # it is one of the two
                if time.monotonic() - told >= TOLD_SECONDS and (lines := found[process.stderr].splitlines()):
                    told = time.monotonic()
                    self._tell(lines[-1].decode(errors="replace"))
        return found[process.stdout], found[process.stderr]

    def _tell(self, line: str) -> None:
        capture = self.config.pluginmanager.getplugin("capturemanager")
        reporter = self.config.pluginmanager.getplugin("terminalreporter")
        if reporter is not None and capture is not None:
            with capture.global_and_fixture_disabled():
                reporter.write_line(f"  {self.name}: {line}")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """What the run has said, instead of where this plugin noticed."""
        if isinstance(excinfo.value, ContractBroken):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """See pytest."""
        return self.session.path, None, f"contract on {self.backend}"


def pytest_configure(config: pytest.Config) -> None:
    """See pytest."""
    config.addinivalue_line("markers", "realtime_contract: the realtime contract on one backend")
    if not config.pluginmanager.hasplugin("timeout"):
        config.addinivalue_line("markers", "timeout(seconds): of pytest-timeout, which is not here")


def _clean() -> dict[str, str]:
    """The environment without the variables by which `make contract` is told things."""
    ours = ("PROFILE", "EXAMPLES", "BACKENDS", "SEED", "MUTANTS", "REPORT")
    return {name: value for name, value in os.environ.items() if name not in ours}
