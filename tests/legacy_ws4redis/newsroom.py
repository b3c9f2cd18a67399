"""The servers of the project from ws4redis's time, and browsers as its readers have them."""

import http.client
import http.cookiejar
import itertools
import os
import re
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from contract_tests.part import Part
from shim.bus.embedded import EmbeddedValkey
from tests.integration.contract.cluster import free_ports, wait_until

ROOT: Final = Path(__file__).resolve().parents[2]
PROJECT: Final = Path(__file__).parent / "oldproject"
BIN: Final = Path(sys.executable).parent
HOST: Final = "127.0.0.1"
PATIENCE: Final = 30.0

_UWSGI: Final = [
    *(str(BIN / "uwsgi"), "--http-socket", f"{HOST}:{{port}}", "--master", "--processes", "2", "--need-app"),
    *("--gevent", "100", "--gevent-early-monkey-patch", "--disable-logging", "--module"),
]
COMMANDS: Final[Mapping[str, list[str]]] = {
    "uwsgi": [*_UWSGI, "newsroom.wsgi"],
    "channels": [
        *(sys.executable, "-m", "gunicorn", "newsroom.asgi:application", "--bind", f"{HOST}:{{port}}"),
        *("-k", "channels_impl.worker.RealtimeWorker", "-w", "2", "--no-control-socket", "--log-level", "warning"),
    ],
    "runserver": [sys.executable, "manage.py", "runserver", "--noreload", f"{HOST}:{{port}}"],
}
"""uWSGI as ws4redis's documentation has it, but for the monkey patching; Channels; Django's development server."""

SOCKETS: Final = [*_UWSGI, "newsroom.wsgi_websocket"]
"""The other way to run uWSGI: one process for pages, which any server can be, and this one for WebSockets."""

SEED: Final = """
from django.contrib.auth.models import Group, User
desk = Group.objects.create(name="desk")
for name in ("ana", "ben"):
    User.objects.create_user(name, password=name)
User.objects.get(username="ana").groups.add(desk)
from waffle.models import Flag
Flag.objects.create(name="realtime_channels")
"""

_numbers = itertools.count()


class Newsroom:
    """All servers of the project, on one Redis and one database; a context manager."""

    def __init__(self, directory: Path) -> None:
        base = free_ports(len(COMMANDS) + 2)
        self.ports = dict(zip([*COMMANDS, "sockets"], itertools.count(base), strict=False))
        self.directory = directory
        self.valkey = EmbeddedValkey(base + len(self.ports))
        paths = (PROJECT, ROOT, ROOT / "legacy_ws4redis" / "names")  # as installed: see legacy_ws4redis/alias.py
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("DJANGO_", "REALTIME_"))},
            "PYTHONPATH": ":".join(map(str, paths)),
            "PYTHONUNBUFFERED": "1",
            "DJANGO_SETTINGS_MODULE": "newsroom.swapped",
            "NEWSROOM_DATABASE": str(directory / "db" / "db.sqlite3"),
            "NEWSROOM_REDIS_PORT": str(self.valkey.port),
            "NEWSROOM_LEGACY_URL": f"ws://{HOST}:{self.ports['uwsgi']}/ws/",
            "NEWSROOM_CHANNELS_URL": f"ws://{HOST}:{self.ports['channels']}/ws/",
        }
        self._parts: list[Part] = []

    def __enter__(self) -> Self:
        try:
            self.valkey.start()
            (self.directory / "db").mkdir()
            self.manage("migrate", "--verbosity", "0")
            self.python(SEED)
            for name, command in COMMANDS.items():
                self._start(name, command)
            for part in self._parts:
                wait_until(partial(self._answers, part), PATIENCE, f"{part.name} does not answer")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for part in self._parts:
            part.stop(0.0)
        self.valkey.stop()

    def sockets(self) -> int:
        """Start the server for WebSockets alone; its port."""
        part = self._start("sockets", SOCKETS)
        wait_until(partial(self._answers, part, "/", 404), PATIENCE, "the server for WebSockets does not answer")
        return self.ports["sockets"]

    @contextmanager
    def without_database(self) -> Iterator[None]:
        """The database is away, and the sessions with it."""
        away = (self.directory / "db").rename(self.directory / "away")
        try:
            # Who came just before has left a connection open for the next one: it has the file, whatever its name.
            wait_until(lambda: not is_open_in(away), PATIENCE, "the database is still open")
            yield
        finally:
            away.rename(self.directory / "db")

    def errors(self) -> set[str]:
        """What tracebacks in the servers' logs end with."""
        logs = "".join(part.log.read_text(errors="replace") for part in self._parts)
        assert all(word not in logs for word in ("WORKER TIMEOUT", "SIGSEGV", "never retrieved")), logs
        led_to_another = r"(?!\n\n(?:During handling of|The above exception was))"
        return set(re.findall(rf"^[\w.]+(?:Error|Exception)\b.*${led_to_another}", logs, re.MULTILINE))

    def manage(self, *words: str) -> str:
        """Run the project's `manage.py`; its output."""
        return self._run(sys.executable, "manage.py", *words)

    def python(self, code: str) -> str:
        """Run a program of the project's."""
        return self._run(sys.executable, "-c", f"import django; django.setup()\n{code}")

    def _run(self, *words: str) -> str:
        done = subprocess.run(
            words, cwd=PROJECT, env=self.env, capture_output=True, text=True, check=False, timeout=PATIENCE
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def _start(self, name: str, command: list[str]) -> Part:
        words = [word.format(port=self.ports[name]) for word in command]
        part = Part(name, words, env=self.env, cwd=PROJECT, log=self.directory / f"{name}.log")
        part.start()
        self._parts.append(part)
        return part

    def _answers(self, part: Part, path: str = "/login/", status: int = 200) -> bool:
        assert part.running, part.tail()
        try:
            return Browser(self.ports[part.name]).get(path)[0] == status
        except (OSError, http.client.HTTPException):
            return False


class Browser:
    """Cookies and a server: who has signed in with one is signed in with all."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.jar = http.cookiejar.CookieJar()
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPCookieProcessor(self.jar), urllib.request.ProxyHandler({})
        )

    def signed_in(self, name: str) -> Self:
        """Sign in by the form."""
        _, page = self.get("/login/")
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
        assert token, page
        self.post("/login/?next=/wire/", username=name, password=name, csrfmiddlewaretoken=token[1])
        assert "sessionid" in {cookie.name for cookie in self.jar}
        return self

    def get(self, path: str) -> tuple[int, str]:
        """Status and text."""
        return self._ask(urllib.request.Request(f"http://{HOST}:{self.port}{path}"))

    def post(self, path: str, **fields: str) -> tuple[int, str]:
        """Status and text."""
        data = urllib.parse.urlencode(fields).encode()
        return self._ask(urllib.request.Request(f"http://{HOST}:{self.port}{path}", data))

    @contextmanager
    def socket(self, url: str, port: int | None = None, **options: Any) -> Iterator[ClientConnection]:
        """A WebSocket, with the cookies: a whole URL, or what comes behind `/ws/`."""
        if not url.startswith("ws:"):
            url = f"ws://{HOST}:{port or self.port}/ws/{url}"
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in self.jar)
        options.setdefault("origin", f"http://{HOST}:{self.port}")
        headers = {"Cookie": cookies} if cookies else {}
        with connect(url, additional_headers=headers, proxy=None, open_timeout=PATIENCE, **options) as websocket:
            yield websocket

    def _ask(self, request: urllib.request.Request) -> tuple[int, str]:
        try:
            with self._opener.open(request, timeout=PATIENCE) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


def messages(websocket: ClientConnection, count: int) -> list[str | bytes]:
    """So many messages; heartbeats are none."""
    found: list[str | bytes] = []
    while len(found) < count:
        message = websocket.recv(PATIENCE)
        if message != "--heartbeat--":
            found.append(message)
    return found


def ended(websocket: ClientConnection) -> int | None:
    """The code with which a server has closed it."""
    with suppress(ConnectionClosed):
        while True:
            websocket.recv(PATIENCE)
    return websocket.close_code


def fresh(word: str) -> str:
    """A text that no test had before."""
    return f"{word}-{next(_numbers)}"


def is_open_in(folder: Path) -> bool:
    """Whether any process of this machine that may be looked at has a file of this folder open."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):  # it has been closed, or is somebody else's
            if link.readlink().is_relative_to(folder):
                return True
    return False
