"""Stopping and reloading real servers under live connections: contract 9.1."""

import asyncio
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest

from contract_tests.app.notes import Notes
from demo.stack import HOST, ROOT
from shim.bus.embedded import EmbeddedValkey
from tests.integration.conftest import free_ports
from tests.integration.crowd import PATIENCE, RAW, V1, Crowd, codes

pytestmark = pytest.mark.servers

DRAIN: Final = 1.5  # seconds
ALL: Final = RAW + V1
MOVED: Final = 1012
REQUESTS: Final = 100  # after so many a worker of some servers is replaced

_GUNICORN: Final = [
    *(sys.executable, "-m", "gunicorn", "--bind", f"{HOST}:{{port}}", "--no-control-socket"),
    *("--graceful-timeout", "20", "--workers", "2"),
]
_REALTIME: Final = [*_GUNICORN, "--worker-class", "channels_impl.worker.RealtimeWorker"]
_UVICORN: Final = [
    *(sys.executable, "-m", "uvicorn", "--host", HOST, "--port", "{port}"),
    *("--ws", "channels_impl.uvicorn_protocol:RealtimeProtocol", "--timeout-graceful-shutdown", "10"),
]
# Fewer requests at a time than there are clients: only the handshake of a connection is one.
_UWSGI: Final = [
    *(str(Path(sys.executable).parent / "uwsgi"), "--http-socket", f"{HOST}:{{port}}", "--master", "--processes", "2"),
    *("--gevent", "16", "--gevent-early-monkey-patch", "--module", "demo.wsgi", "--need-app", "--disable-logging"),
    *("--die-on-term", "--worker-reload-mercy", "20", "--touch-reload", "{touched}"),
    *("--binary-path", sys.executable),  # it would run the Python below the virtual environment
]
ASGI: Final = "demo.asgi:application"
WSGI: Final = "demo.wsgi"
COMMANDS: Final = {
    "uwsgi": _UWSGI,
    "uwsgi-recycled": [
        *(*_UWSGI, "--processes", "1", "--lazy-apps"),
        *("--max-requests", str(REQUESTS), "--min-worker-lifetime", "1"),
    ],
    "gthread": [*_GUNICORN, "--worker-class", "gthread", "--threads", "64", WSGI],
    "gthread-recycled": [
        *(*_GUNICORN, "--workers", "1", "--worker-class", "gthread", "--threads", "64"),
        *("--max-requests", str(REQUESTS), WSGI),
    ],
    "gevent": [*_GUNICORN, "--worker-class", "gevent", WSGI],
    "gunicorn-uvicorn": [*_REALTIME, ASGI],
    "uvicorn": [*_UVICORN, ASGI],
    "uvicorn-workers": [*_UVICORN, "--workers", "2", ASGI],
    "gunicorn-uvicorn-recycled": [*_REALTIME, "--workers", "1", "--max-requests", str(REQUESTS), ASGI],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where database, notes and logs of these servers are."""
    folder = tmp_path_factory.mktemp("shutdown")
    env = _env(folder, "redis://127.0.0.1:1/0", "legacy")
    subprocess.run(
        [sys.executable, "manage.py", "migrate", "--verbosity", "0"], cwd=ROOT, env=env, check=True, timeout=60
    )
    return folder


def _env(folder: Path, redis_url: str, backend: str) -> dict[str, str]:
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.integration.contract.settings",
        "DJANGO_DATABASE": str(folder / "db.sqlite3"),
        "CONTRACT_NOTES": str(folder),
        "CONTRACT_PACE": json.dumps({"drain": DRAIN}),
        "REALTIME_FORCE_BACKEND": backend,  # nobody is moved: what these tests see are stops
        "REALTIME_REDIS_URL": redis_url,
        "PYTHONUNBUFFERED": "1",
    }


class Server:
    """One server with its workers, and what it noted."""

    def __init__(self, kind: str, folder: Path, redis_url: str) -> None:
        self.port = free_ports(1)
        self.note = f"{kind}-{self.port}"
        self.notes = Notes(folder)
        self.log = folder / f"{self.note}.log"
        self.touched = folder / f"{self.note}.touch"
        self.touched.touch()
        words = [word.format(port=self.port, touched=self.touched) for word in COMMANDS[kind]]
        backend = "channels" if ASGI in words else "legacy"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                words, cwd=ROOT, env=_env(folder, redis_url, backend), stdout=log, stderr=log, start_new_session=True
            )

    @property
    def url(self) -> str:
        return f"ws://{HOST}:{self.port}/ws/contract"

    def get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=PATIENCE)
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def answers(self) -> bool:
        try:
            return self.get("/health")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def noted(self, event: str) -> list[dict[str, Any]]:
        return self.notes.read(self.note, event)

    def wait(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"{what}; the log:\n{self.log.read_text()[-4000:]}"
            time.sleep(0.02)

    def end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)


@pytest.fixture
def start(folder: Path, valkey: EmbeddedValkey) -> Iterator[Callable[[str], Server]]:
    """Starts a server and waits until it answers."""
    started: list[Server] = []

    def start(kind: str) -> Server:
        server = Server(kind, folder, valkey.url)
        started.append(server)
        server.wait(server.answers, "it does not answer")
        return server

    yield start
    for server in started:
        server.end()


def _are_gone(pids: set[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def _assert_calm(crowd: Crowd, server: Server) -> None:
    """Everybody was told 1012, over a stretch of time; each handler heard of it once, with that code."""
    assert codes(crowd.ends) == [MOVED]
    times = sorted(end.at for end in crowd.ends)
    assert times[-1] - times[0] > DRAIN / 4, "all in one instant"
    told = server.noted("disconnected")
    assert [each["code"] for each in told] == [MOVED] * ALL


@pytest.mark.parametrize("kind", ["uwsgi", "gthread", "gevent", "gunicorn-uvicorn", "uvicorn", "uvicorn-workers"])
def test_sigterm(kind: str, start: Callable[[str], Server]) -> None:
    server = start(kind)
    assert server.get("/realtime/readyz") == (200, b"ready")

    async def live() -> Crowd:
        async with Crowd(server.url, server.note) as crowd:
            busy = crowd.clients[-1]
            await busy.send(json.dumps({"do": "wait", "gate": server.note}))
            await asyncio.to_thread(server.wait, lambda: server.noted("receive"), "no handler runs")
            server.process.send_signal(signal.SIGTERM)
            await crowd.until(1)
            refused = await crowd.refusal()
            assert refused.status_code == 503
            assert int(refused.headers["Retry-After"]) > 0
            assert await asyncio.to_thread(server.get, "/realtime/readyz") == (503, b"stopping")
            assert await asyncio.to_thread(server.get, "/realtime/livez") == (200, b"alive")
            await crowd.until(ALL)
            assert server.process.poll() is None
            assert not server.noted("received")
            server.notes.open_gate(server.note)
        return crowd

    crowd = asyncio.run(live())
    status = server.process.wait(PATIENCE)
    _assert_calm(crowd, server)
    assert len(server.noted("received")) == 1
    # uvicorn ends by the signal that it was sent, once it has done everything that it has to do before.
    assert status == (-signal.SIGTERM if kind == "uvicorn" else 0)
    server.wait(lambda: _are_gone({note["pid"] for note in server.noted("audiences")}), "a process is left")


def _hang_up(server: Server) -> None:
    server.process.send_signal(signal.SIGHUP)


def _touch(server: Server) -> None:
    os.utime(server.touched, (time.time() + 10, time.time() + 10))


def _use_up(server: Server) -> None:
    for _ in range(REQUESTS):
        server.get("/realtime/livez")


@pytest.mark.parametrize(
    ("kind", "reload"),
    [
        ("uwsgi", _touch),
        ("uwsgi-recycled", _use_up),
        ("gthread-recycled", _use_up),
        ("gunicorn-uvicorn", _hang_up),
        ("gunicorn-uvicorn-recycled", _use_up),
    ],
)
def test_reload(kind: str, reload: Callable[[Server], None], start: Callable[[str], Server]) -> None:
    server = start(kind)

    async def live() -> Crowd:
        async with Crowd(server.url, server.note) as crowd:
            old = {note["pid"] for note in server.noted("audiences")}
            await asyncio.to_thread(reload, server)
            await crowd.until(ALL)
            await asyncio.to_thread(server.wait, lambda: _are_gone(old), "an old process is left")
        return crowd

    crowd = asyncio.run(live())
    _assert_calm(crowd, server)
    server.wait(server.answers, "nobody took over")
    assert server.get("/realtime/readyz") == (200, b"ready")
