"""A fresh Django project outside the checkout, made and run by the commands that a page of documentation shows."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from tests.project.pages import ROOT, Block

PATIENCE: Final = 30.0
DOCUMENTED_PORTS: Final = (8000, 8001)
_SIGN_IN: Final = """
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.contrib.sessions.backends.db import SessionStore
user, _ = get_user_model().objects.get_or_create(username="{name}")
session = SessionStore()
session[SESSION_KEY] = str(user.pk)
session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
session[HASH_SESSION_KEY] = user.get_session_auth_hash()
session.create()
print(session.session_key)
"""
_PLACE: Final = re.compile(r"(?:# |<!-- )(?P<path>[\w/]+\.\w+)(?: -->)?\n")


class Site:
    """A project in a folder, and the programs that were started for it.

    The pages' ports 8000 and 8001 become free ones, in every file and command alike; all else is done as shown.

    Attributes:
        legacy, channels: `127.0.0.1:port` of the two servers.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.legacy, self.channels = _free_addresses(len(DOCUMENTED_PORTS))
        # Short, since sockets are made in it, and ours, since two runs on one machine must not meet.
        self._runtime = Path(tempfile.mkdtemp(prefix="rs-"))
        self._logs = 0
        self._programs: list[tuple[str, subprocess.Popen[bytes]]] = []
        folder.mkdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self._runtime, ignore_errors=True)

    @property
    def env(self) -> dict[str, str]:
        """What a person's shell would have: the environment's programs first, the packages importable."""
        mine = {key: os.environ[key] for key in ("HOME", "LANG", "LC_ALL", "TMPDIR") if key in os.environ}
        return {
            **mine,
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '/usr/bin:/bin')}",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "XDG_RUNTIME_DIR": str(self._runtime),
        }

    def shown(self, text: str) -> str:
        """What a page shows, with this site's ports."""
        for port, address in zip(DOCUMENTED_PORTS, (self.legacy, self.channels), strict=True):
            text = re.sub(rf"\b{port}\b", address.rpartition(":")[2], text)
        return text

    def write(self, blocks: Sequence[Block]) -> None:
        """Put code where its first line says (`# mysite/urls.py`): behind what the file holds, or in a new file."""
        for each in blocks:
            place = _PLACE.match(each.text)
            assert place is not None, f"a block without a place: {each.text[:60]}"
            path = self.folder / place["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as file:
                file.write("\n\n" + self.shown(each.text))

    def run(self, command: str) -> str:
        """Run a command to its end; its output. It must succeed."""
        done = subprocess.run(
            ["/bin/sh", "-c", self.shown(command)],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        return done.stdout

    def start(self, command: str) -> Path:
        """Start a program that stays: a server or a client, with a terminal's open input. Its log."""
        self._logs += 1
        log = self.folder / f"program-{self._logs}.log"
        with log.open("wb") as file:
            program = subprocess.Popen(
                ["/bin/sh", "-c", self.shown(command)],
                cwd=self.folder,
                env=self.env,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._programs.append((command, program))
        return log

    def stop(self) -> None:
        """End every program."""
        for _, program in self._programs:
            _signal(program, signal.SIGINT)
        deadline = time.monotonic() + 10
        for _, program in self._programs:
            with suppress(subprocess.TimeoutExpired):
                program.wait(max(0.1, deadline - time.monotonic()))
            _signal(program, signal.SIGKILL)
            program.communicate()
        self._programs.clear()

    @property
    def running(self) -> int:
        """How many programs have not ended."""
        return sum(program.poll() is None for _, program in self._programs)

    def logs(self) -> str:
        return "\n".join(f"{log.name}:\n{log.read_text(errors='replace')[-3000:]}" for log in self.folder.glob("*.log"))

    def wait_for(self, address: str, facility: str, **options: Any) -> None:
        """Wait until a server takes WebSockets."""

        def takes() -> bool:
            for command, program in self._programs:
                assert program.poll() is None, f"{command} has ended\n{self.logs()}"
            try:
                with self.client(address, facility, **options):
                    return True
            except (OSError, WebSocketException):
                return False

        until(takes, lambda: f"{address} does not answer\n{self.logs()}")

    def session(self, name: str) -> str:
        """Sign somebody in, who is made if need be; the key of the session."""
        return self.run(f"python manage.py shell --verbosity 0 -c '{_SIGN_IN.format(name=name)}'").split()[-1]

    def wait_for_text(self, log: Path, text: str) -> None:
        """Wait until a program has said something."""
        until(lambda: text in log.read_text(errors="replace"), lambda: f"no {text!r}\n{self.logs()}")

    def client(self, address: str, facility: str, **options: Any) -> AbstractContextManager[ClientConnection]:
        """A plain client, for a `with`."""
        made: AbstractContextManager[ClientConnection] = connect(
            f"ws://{address}/ws/{facility}", proxy=None, open_timeout=PATIENCE, **options
        )
        return made


def hello(client: ClientConnection) -> None:
    """Open a v1 connection."""
    client.send('{"op":"hello"}')
    assert json.loads(client.recv(PATIENCE))["op"] == "ready"


def message(client: ClientConnection) -> dict[str, Any]:
    """The next message of a v1 connection; the server may say other things in between: `ping`, `move`."""
    while True:
        frame: dict[str, Any] = json.loads(client.recv(PATIENCE))
        if frame["op"] == "msg":
            return frame


def get(url: str, headers: dict[str, str] | None = None) -> str:
    """What `curl` would print."""
    assert url.startswith("http://127.0.0.1:")
    request = urllib.request.Request(url, headers=headers or {})
    with urllib.request.urlopen(request, timeout=PATIENCE) as response:
        text: str = response.read().decode()
    return text


def until(condition: Callable[[], bool], why: Callable[[], str], timeout: float = PATIENCE) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, why()
        time.sleep(0.05)


def _free_addresses(count: int) -> list[str]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _signal(program: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(program.pid, number)  # its workers too
