"""Real servers on one machine: uWSGI for legacy, gunicorn with uvicorn for channels, and Redis, ours or a given one.

Ports: `port_base` legacy, +1 channels, +2 Valkey. Everything that is written goes to one directory, made anew at each
start. The demo's stack and the contract suite's servers are subclasses.
"""

import http.client
import importlib.util
import json
import os
import random
import shutil
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final, NoReturn, Self

from websockets.exceptions import WebSocketException
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from contract_tests.part import Part, StackError
from shim.bus.embedded import EmbeddedValkey
from shim.bus.sync import SyncBus
from shim.core.errors import RealtimeUnavailable

HOST: Final = "127.0.0.1"
LEGACY: Final = "legacy"
CHANNELS: Final = "channels"
BACKENDS: Final = (LEGACY, CHANNELS)
WORKERS: Final = 2  # of each server: several processes, so that what goes wrong between them shows
START_TIMEOUT: Final = 60.0  # seconds for everything to answer, on a machine that is busy with other things
STOP_TIMEOUT: Final = 5.0  # seconds for a server to end by itself
DRAIN_TIMEOUT: Final = 20.0  # and for one that takes leave of its connections first
PROBE_TIMEOUT: Final = 5.0
WATCH_SECONDS: Final = 1.0


class Servers:
    """Starts and stops everything; a context manager. A subclass says what the servers run.

    Args:
        port_base: the first of three ports.
        redis_url: the Redis to use; None starts the embedded Valkey.
        directory: where database and logs go.
        env: more variables for the servers.
        backends: the servers that run.

    Attributes:
        parts: the servers, by backend. valkey: the embedded Valkey, None with a `redis_url`.
        settings, wsgi, asgi: module of Django's settings, module of the WSGI application, ASGI application.
        root: where the servers run. facility: one that anybody may open. health_path: answers which server it is.
    """

    settings: ClassVar[str]
    wsgi: ClassVar[str]
    asgi: ClassVar[str]
    root: ClassVar[Path]
    facility: ClassVar[str]
    health_path: ClassVar[str] = "/health"

    def __init__(
        self,
        port_base: int,
        *,
        directory: Path,
        redis_url: str | None = None,
        env: Mapping[str, str] | None = None,
        backends: Sequence[str] = BACKENDS,
    ) -> None:
        if not 1 <= port_base <= 65_533:
            raise StackError(f"PORT_BASE is the first of three ports, 1 to 65533, not {port_base}.")
        self.port_base = port_base
        self.directory = directory
        self.backends = tuple(backends)
        self.ports = {LEGACY: port_base, CHANNELS: port_base + 1}
        self.http = {name: f"http://{HOST}:{port}" for name, port in self.ports.items()}
        self.ws = {name: f"ws://{HOST}:{port}/ws/" for name, port in self.ports.items()}
        self.valkey = None if redis_url else EmbeddedValkey(port_base + 2)
        self.redis_url = redis_url or EmbeddedValkey(port_base + 2).url
        self.env = {
            "DJANGO_SETTINGS_MODULE": self.settings,
            "DJANGO_DATABASE": str(self.directory / "db.sqlite3"),
            "REALTIME_REDIS_URL": self.redis_url,
            "REALTIME_LEGACY_URL": self.ws[LEGACY],
            "REALTIME_CHANNELS_URL": self.ws[CHANNELS],
            # Others may use a Redis that was there before; ours is ours alone.
            "REALTIME_PREFIX": f"rt-{port_base}" if redis_url else "rt",
            **(env or {}),
        }
        self.parts: dict[str, Part] = {}

    # Life

    def start(self) -> None:
        """Start everything; returns when all of it answers, WebSocket handshakes included.

        Raises:
            StackError: it cannot run, the message says why; nothing is left running.
        """
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End every process that was started. Idempotent."""
        self.terminate()  # all of them, before waiting for the first
        for part in self.parts.values():
            part.stop(STOP_TIMEOUT)
        if self.valkey is not None:
            self.valkey.stop()

    def terminate(self) -> None:
        """Ask every server to end (SIGTERM); returns at once."""
        for part in self.parts.values():
            part.terminate()

    def restart(self, env: Mapping[str, str]) -> None:
        """End the servers, if they have not ended by themselves, and start them again; returns when all answer.

        Args:
            env: more variables for them, from now on.

        Raises:
            StackError: they do not answer.
        """
        self.terminate()
        for part in self.parts.values():
            part.stop(DRAIN_TIMEOUT)
        self.env.update(env)
        self._start_servers()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def process_env(self) -> dict[str, str]:
        """The environment of a process that belongs to the servers."""
        return {**os.environ, **self.env, "PYTHONUNBUFFERED": "1"}

    def watch(self) -> NoReturn:
        """Stay until a signal's handler raises.

        Raises:
            StackError: a server has ended.
        """
        while True:
            time.sleep(WATCH_SECONDS)
            for part in self.parts.values():
                if not part.running:
                    raise _ended(part)

    def seed(self) -> None:
        """Make the database; Redis answers already, no server runs yet.

        Raises:
            StackError: it could not be made.
        """

    def _start(self) -> None:
        self._look()
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        self._start_redis()
        self.seed()
        self._start_servers()

    def _start_servers(self) -> None:
        for name in self.backends:
            log = self.directory / f"{name}.log"
            self.parts[name] = Part(name, self.command(name), env=self.process_env, cwd=self.root, log=log)
            self.parts[name].start()
        deadline = time.monotonic() + START_TIMEOUT
        for name in self.backends:
            self._wait_for(name, deadline)

    def _look(self) -> None:
        """What can be known before anything is started."""
        wheels = {"pyuwsgi": "pyuwsgi", "gunicorn": "gunicorn", "uvicorn_worker": "uvicorn-worker", "gevent": "gevent"}
        for module, wheel in wheels.items():
            if importlib.util.find_spec(module) is None:
                raise StackError(f"The package {wheel} is not installed for {sys.executable}: run `make setup`.")
        wanted = {f"{name} (HTTP)": self.ports[name] for name in self.backends}
        if self.valkey is not None:
            wanted["Valkey"] = self.valkey.port
        for what, port in wanted.items():
            if _is_taken(port):
                raise StackError(
                    f"Port {port} ({what}) is taken: stop what listens there, or choose other ports with PORT_BASE=."
                )

    def _start_redis(self) -> None:
        """Ours, or see that the given one answers."""
        try:
            if self.valkey is not None:
                self.valkey.start()
            bus = SyncBus(self.redis_url, prefix=self.env["REALTIME_PREFIX"])
            bus.ping()
            bus.close()
        except (RealtimeUnavailable, ValueError) as error:
            raise StackError(str(error)) from None

    def command(self, backend: str) -> list[str]:
        """How a backend's server is started, on `ports[backend]`; it answers `health_path`, too. To be overridden."""
        return self._uwsgi() if backend == LEGACY else self._gunicorn()

    def _uwsgi(self) -> list[str]:
        return [
            str(Path(sys.executable).parent / "uwsgi"),
            *("--http-socket", f"{HOST}:{self.ports[LEGACY]}"),
            *("--master", "--processes", str(WORKERS)),
            *("--listen", str(_queue())),  # a hundred, its default, is less than what comes back from a killed worker
            # Before the application is loaded: a lock that was made earlier would stop a process, not a greenlet.
            *("--gevent", "1000", "--gevent-early-monkey-patch"),
            *("--module", self.wsgi, "--need-app"),
            "--disable-logging",  # of requests: a WebSocket would show as one that takes hours
            *("--die-on-term", "--worker-reload-mercy", "10"),
            *("--buffer-size", "32768"),  # for the request's head: cookies can be long
        ]

    def _gunicorn(self) -> list[str]:
        return [
            *(sys.executable, "-m", "gunicorn"),
            *("--bind", f"{HOST}:{self.ports[CHANNELS]}"),
            *("--workers", str(WORKERS), "--worker-class", "channels_impl.worker.RealtimeWorker"),
            *("--graceful-timeout", "10", "--log-level", "warning"),
            "--no-control-socket",  # one for each user of the machine: two stacks would share it
            self.asgi,
        ]

    # Whether it answers

    def _wait_for(self, name: str, deadline: float) -> None:
        part, last = self.parts[name], "nothing was tried"
        while time.monotonic() < deadline:
            if not part.running:
                raise _ended(part)
            try:
                self.health(name)
                self._shake_hands(name)
            except (OSError, http.client.HTTPException, WebSocketException, ValueError) as error:
                last = f"{type(error).__name__}: {error}"
                time.sleep(0.05)
            else:
                return
        raise StackError(f"{name} does not answer ({last}); the end of {part.log}:\n{part.tail()}")

    def health(self, name: str) -> dict[str, Any]:
        """Ask one worker of a backend for its name and pid, over HTTP.

        Raises:
            OSError, http.client.HTTPException, ValueError: it does not answer, or not with that.
        """
        connection = http.client.HTTPConnection(HOST, self.ports[name], timeout=PROBE_TIMEOUT)
        try:
            connection.request("GET", self.health_path, headers={"Connection": "close"})
            response = connection.getresponse()
            body: dict[str, Any] = json.loads(response.read())
        finally:
            connection.close()
        if body.get("server") != name:
            raise ValueError(f"somebody else answers on port {self.ports[name]}: {body}")
        return body

    def _shake_hands(self, name: str) -> None:
        """A whole v1 opening: handshake, `hello`, `ready`, so Redis answers too."""
        with connect(
            f"{self.ws[name]}{self.facility}",
            subprotocols=[Subprotocol("realtime.v1")],
            open_timeout=PROBE_TIMEOUT,
            close_timeout=1,
            proxy=None,
        ) as websocket:
            websocket.send('{"op":"hello"}')
            ready = json.loads(websocket.recv(PROBE_TIMEOUT))
        if ready.get("backend") != name:
            raise ValueError(f"{name} said {ready}")


def free_ports(n: int = 3) -> int:
    """The first of so many free ports in a row, below the range that systems take outgoing connections' ports from.

    Raises:
        StackError: there are none.
    """
    for base in random.sample(range(15_000, 32_000 - n), 200):
        if not any(_is_taken(port) for port in range(base, base + n)):
            return base
    raise StackError(f"No {n} free ports in a row were found below 32000.")


def _queue() -> int:
    """How many connections may wait to be accepted: uWSGI does not start when the kernel allows fewer than it asks."""
    try:
        return min(1_024, int(Path("/proc/sys/net/core/somaxconn").read_text()))
    except (OSError, ValueError):
        return 100


def _ended(part: Part) -> StackError:
    return StackError(f"{part.name} has ended; the end of {part.log}:\n{part.tail()}")


def _is_taken(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except PermissionError:
            raise StackError(f"Port {port} needs privileges: choose other ports with PORT_BASE=.") from None
        except OSError:
            return True
    return False
