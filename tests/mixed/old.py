"""The un-upgraded half of a mixed fleet: the original package, in an environment of its own, in processes of its own.

The environment is made once (about ten seconds) and kept in `.venv-ws4redis`. Where it cannot be had, because there is
no Python 3.9 or 3.10 or the packages cannot be fetched, the tests that need it skip themselves, and say so.
"""

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from contract_tests.part import Part

ROOT: Final = Path(__file__).resolve().parents[2]
HOME: Final = ROOT / ".venv-ws4redis"
REQUIREMENTS: Final = ROOT / "requirements" / "ws4redis.txt"
VERSIONS: Final = ("3.9", "3.10")
"""What Django 3.2 runs on and today's wheels still are made for."""

HOST: Final = "127.0.0.1"
INSTALL_TIMEOUT: Final = 240.0  # seconds for one command


class CannotBeHad(Exception):
    """The environment cannot be made here; the message says why."""


def prepare() -> None:
    """Make the environment, before the tests that need it; or say loudly that they will be skipped."""
    try:
        environment()
    except CannotBeHad as error:
        print(f"tests: the fleet of old and new processes is SKIPPED: {error}", flush=True)  # noqa: T201


def environment() -> Path:
    """The directory with the environment's programs, made if need be.

    Raises:
        CannotBeHad: it cannot be made here.
    """
    python = _python()
    wanted = sha256(f"{python}\n{REQUIREMENTS.read_text()}".encode()).hexdigest()
    HOME.mkdir(exist_ok=True)
    with (HOME / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes may ask at once
        stamp, venv = HOME / "made-from", HOME / "env"
        if not (stamp.exists() and stamp.read_text() == wanted):
            stamp.unlink(missing_ok=True)
            shutil.rmtree(venv, ignore_errors=True)
            _run(str(python), "-I", "-m", "venv", str(venv))
            pip = (str(venv / "bin" / "python"), "-I", "-m", "pip", "--disable-pip-version-check", "--no-input")
            _run(*pip, "install", "--quiet", "--requirement", str(REQUIREMENTS))
            stamp.write_text(wanted)
    return venv / "bin"


def _python() -> Path:
    for candidate in _candidates():
        try:
            done = subprocess.run(
                [candidate, "-I", "-c", "import ensurepip, sqlite3, sys; print(sys.executable, *sys.version_info[:2])"],
                capture_output=True,
                text=True,
                check=False,
                timeout=20,
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        executable, _, version = done.stdout.strip().partition(" ")
        if done.returncode == 0 and version.replace(" ", ".") in VERSIONS:
            return Path(executable)
    raise CannotBeHad(f"there is no Python {' or '.join(VERSIONS)} on PATH, in pyenv or in uv")


def _candidates() -> Iterator[str]:
    """Programs that may be a Python of the right age, as `bootstrap` looks for ours."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for version in VERSIONS:
        if found := shutil.which(f"python{version}"):
            yield found
        yield from map(str, sorted(pyenv.glob(f"{version}*/bin/python")))
        if uv := shutil.which("uv"):
            done = subprocess.run(
                [uv, "python", "find", "--no-python-downloads", version],
                capture_output=True,
                text=True,
                check=False,
                timeout=20,
            )
            if done.returncode == 0:
                yield done.stdout.strip()


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSTALL_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotBeHad(f"{' '.join(command)}: {error}") from None
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr[-300:]]
        raise CannotBeHad(f"{' '.join(command)}: {errors[0]}")


class OldFleet:
    """A uWSGI server and a publishing process of the un-upgraded site; a context manager.

    Args:
        port: where the server listens. redis_port: where Redis does.
        directory: for the log. database: the site's, which the upgraded processes share.
        prefix: `WS4REDIS_PREFIX`.
    """

    def __init__(self, port: int, *, redis_port: int, directory: Path, database: str, prefix: str) -> None:
        programs = environment()
        self.ws = f"ws://{HOST}:{port}/ws/"
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
            "DJANGO_SETTINGS_MODULE": "tests.mixed.oldsite.settings",
            "DJANGO_DATABASE": database,
            "OLD_REDIS_PORT": str(redis_port),
            "OLD_PREFIX": prefix,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self._python = str(programs / "python")
        command = [
            *(str(programs / "uwsgi"), "--http-socket", f"{HOST}:{port}", "--http-websockets"),
            *("--gevent", "100", "--master", "--processes", "1", "--die-on-term", "--disable-logging"),
            *("--virtualenv", str(programs.parent), "--pythonpath", str(ROOT)),
            *("--module", "tests.mixed.oldsite.wsgi", "--need-app"),
        ]
        self.server = Part("the old server", command, env=self._env, cwd=ROOT, log=directory / "old.log")
        self._publisher: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.server.start()
        self._publisher = subprocess.Popen(
            [self._python, "-m", "tests.mixed.oldsite.publisher"],
            env=self._env,
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._said() == "ready"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.stop(1.0)
        if self._publisher is not None:
            self._publisher.kill()
            self._publisher.communicate(timeout=10)

    def publish(self, *texts: str, facility: str = "chat", expire: int | None = None, **whom: Any) -> None:
        """`RedisPublisher(facility=…, **whom).publish_message(…)` for each text, in the publishing process."""
        assert self._ask(facility=facility, texts=texts, expire=expire, **whom) == "ok"

    def fetch(self, facility: str = "chat") -> str | None:
        """`RedisPublisher().fetch_message(None, facility, "broadcast")`."""
        found: str | None = self._ask(facility=facility, fetch=True)
        return found

    def _ask(self, **told: Any) -> Any:
        assert self._publisher is not None
        assert self._publisher.stdin is not None
        self._publisher.stdin.write(json.dumps(told) + "\n")
        self._publisher.stdin.flush()
        return json.loads(self._said())

    def _said(self) -> str:
        assert self._publisher is not None
        assert self._publisher.stdout is not None
        return self._publisher.stdout.readline().strip()
