"""The servers that these tests talk to: the stack's two, and more kinds of them where a test wants to know."""

import http.client
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from contract_tests.app.notes import Notes
from contract_tests.part import Part
from demo.stack import HOST, ROOT, Stack
from tests.integration.served import descendants

PATIENCE: Final = 20.0  # seconds for what happens at once on a machine that has nothing else to do
SETTINGS: Final = "tests.integration.contract.settings"

_GUNICORN: Final = [sys.executable, "-m", "gunicorn", "--no-control-socket", "--log-level", "warning", "--bind"]
_UVICORN: Final = [
    *(sys.executable, "-m", "uvicorn", "demo.asgi:application", "--host", HOST, "--port", "{port}"),
    *("--ws-max-size", "1402197", "--log-level", "warning"),
]
MORE: Final[Mapping[str, tuple[str, list[str]]]] = {
    "gthread": ("legacy", [*_GUNICORN, f"{HOST}:{{port}}", "-k", "gthread", "--threads", "64", "demo.wsgi"]),
    "gevent": ("legacy", [*_GUNICORN, f"{HOST}:{{port}}", "-k", "gevent", "demo.wsgi"]),
    "runserver": ("legacy", [sys.executable, "manage.py", "runserver", "--noreload", f"{HOST}:{{port}}"]),
    "uvicorn": ("channels", [*_UVICORN, "--ws", "channels_impl.uvicorn_protocol:RealtimeProtocol"]),
    "asgi": ("channels", [*_UVICORN, "--ws", "websockets-sansio"]),
}
"""Kinds of servers beside the stack's uWSGI (`legacy`) and gunicorn with uvicorn (`channels`): backend and command.

`asgi` is a server that offers what ASGI does and nothing else: see `channels_impl.line`.
"""

MAIN: Final = ("legacy", "channels")
ALL: Final = (*MAIN, *MORE)


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Place:
    """One server: where it listens and which backend it is.

    Attributes:
        name: one of `ALL`. backend: `legacy` or `channels`. log: the file with its output.
    """

    name: str
    backend: str
    port: int
    log: Path
    notes: Notes

    def path(self, facility: str = "contract", **query: object) -> str:
        """The path of a facility; `listen` is given as a list."""
        pairs = {
            name.replace("_", "-"): json.dumps(value) if isinstance(value, list) else value
            for name, value in query.items()
        }
        return f"/ws/{facility}" + (f"?{urlencode(pairs)}" if pairs else "")

    def url(self, facility: str = "contract", **query: object) -> str:
        """Where clients connect."""
        return f"ws://{HOST}:{self.port}{self.path(facility, **query)}"

    def ended(self, note: str) -> list[int]:
        """The codes that `disconnected` got under a note, once it got one."""
        wait_until(partial(self.notes.read, note, "disconnected"), what=f"{note}: `disconnected` never ran")
        return [each["code"] for each in self.notes.read(note, "disconnected")]

    def let_go_of(self, port: int) -> None:
        """Wait until no socket of the server is connected to a client's port; TIME_WAIT is none."""
        wait_until(lambda: (self.port, port) not in set(_sockets()), what=f"the server still holds port {port}")

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """An ordinary request."""
        return self._request("GET", path, None, {"Connection": "close", **(headers or {})})

    def ask(self, what: str, headers: Mapping[str, str] | None = None, **told: object) -> dict[str, Any]:
        """Have something done inside of a server process: see `contract_tests.app.views`."""
        answer = self._request(
            "POST", f"/contract/{what}", json.dumps(told), {"Connection": "close", **(headers or {})}
        )
        assert answer.status == 200, answer
        done: dict[str, Any] = json.loads(answer.body)
        return done

    def _request(self, method: str, path: str, body: str | None, headers: Mapping[str, str]) -> Answer:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()


class Cluster:
    """A stack, and more servers on the same Redis and database; a context manager.

    Args:
        directory: for databases, logs and notes.
        port_base: the first of so many free ports: 3 + `len(MORE)`.
        env: more variables for the servers. redis_config: more of Valkey's configuration.
    """

    def __init__(
        self,
        directory: Path,
        port_base: int,
        env: Mapping[str, str] | None = None,
        redis_config: Mapping[str, str] | None = None,
    ) -> None:
        notes = directory / "notes"
        notes.mkdir()
        self.notes = Notes(notes)
        self._directory = directory
        self._more: dict[str, Part] = {}
        self.stack = Stack(
            port_base,
            directory=directory / "stack",
            env={"DJANGO_SETTINGS_MODULE": SETTINGS, "CONTRACT_NOTES": str(notes), **(env or {})},
            redis_config=redis_config,
        )

    def __enter__(self) -> "Cluster":
        self.stack.start()
        return self

    def __exit__(self, *_: object) -> None:
        for part in self._more.values():
            part.stop(0.0)
        self.stack.stop()

    @property
    def redis_url(self) -> str:
        """Where Redis listens."""
        return self.stack.redis_url

    def place(self, name: str) -> Place:
        """One server by its kind, started if it does not run yet."""
        if name in MAIN:
            return Place(name, name, self.stack.ports[name], self.stack.directory / f"{name}.log", self.notes)
        return self.more(name, name, self.stack.port_base + 3 + list(MORE).index(name))

    def more(self, kind: str, name: str, port: int, env: Mapping[str, str] | None = None) -> Place:
        """One more server, with settings of its own where `env` says so; one of each `name`."""
        backend, command = MORE[kind]
        place = Place(name, backend, port, self._directory / f"{name}.log", self.notes)
        if name not in self._more:
            told = [word.format(port=port) for word in command]
            part = Part(name, told, env={**self.stack.process_env, **(env or {})}, cwd=ROOT, log=place.log)
            self._more[name] = part
            part.start()
            wait_until(lambda: answers(port) or not part.running, what=f"{name} does not answer")
            assert part.running, part.tail()
        return place

    def pids(self, name: str) -> set[int]:
        """The processes of one of the two main servers, master and workers."""
        return descendants(self.stack.parts[name].pid)

    def logs(self) -> dict[str, str]:
        """What all servers have said so far."""
        return {
            path.name: path.read_text(errors="replace")
            for path in (*self._directory.glob("*.log"), *self.stack.directory.glob("*.log"))
        }


def _sockets() -> Iterator[tuple[int, int]]:
    """The local and remote ports of this machine's IPv4 sockets, those without a process too."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, remote, state = line.split()[1:4]
        if state != "06":  # TIME_WAIT
            yield int(local.split(":")[1], 16), int(remote.split(":")[1], 16)


def answers(port: int) -> bool:
    """Whether a server answers HTTP."""
    connection = http.client.HTTPConnection(HOST, port, timeout=2.0)
    try:
        connection.request("GET", "/health", headers={"Connection": "close"})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def free_ports(n: int) -> int:
    """The first of so many free ports in a row, of a range that no system takes for outgoing connections."""
    start = 15_000 + os.getpid() % 1_000 * 16
    for base in range(start, 32_000 - n, n):
        if all(is_free(port) for port in range(base, base + n)):
            return base
    raise AssertionError("no free ports")


def is_free(port: int) -> bool:
    """Whether nobody listens."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def wait_until[T](condition: Callable[[], T], timeout: float = PATIENCE, what: str = "it did not come true") -> T:
    """Wait for a condition; returns what it gave.

    Raises:
        AssertionError: not in so many seconds.
    """
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.01)
    return result
