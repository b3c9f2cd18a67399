"""Real WSGI servers for tests: started on a free port, waited for, stopped, their log looked through."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

ROOT: Final = Path(__file__).resolve().parents[2]
BIN: Final = Path(sys.executable).parent
PATIENCE: Final = 15.0
APPLICATION: Final = "tests.legacy_ws4redis.echo:application"

_UWSGI: Final = [str(BIN / "uwsgi"), "--master", "--die-on-term", "--need-app", "--module", APPLICATION]
_UWSGI_GEVENT: Final = [*_UWSGI, "--gevent", "100", "--gevent-monkey-patch"]
_GUNICORN: Final = [sys.executable, "-m", "gunicorn", APPLICATION, "--bind", "{address}", "--access-logfile", "-"]
_DJANGO: Final = [sys.executable, "-m", "django", "runserver", "--noreload", "{address}"]

COMMANDS: Final = {
    "uwsgi": [*_UWSGI_GEVENT, "--http-socket", "{address}"],
    "uwsgi-router": [*_UWSGI_GEVENT, "--http", "{address}", "--http-websockets"],
    "uwsgi-threads": [*_UWSGI, "--http-socket", "{address}", "--threads", "16"],
    "uwsgi-unpatched": [*_UWSGI, "--gevent", "100", "--http-socket", "{address}"],
    # Its time-out is far below the life of the connections: a worker that is busy with them must not be killed for it.
    "gunicorn-gthread": [*_GUNICORN, "--worker-class", "gthread", "--threads", "32", "--timeout", "2"],
    "gunicorn-gevent": [*_GUNICORN, "--worker-class", "gevent", "--timeout", "2"],
    "gunicorn-sync": [*_GUNICORN, "--worker-class", "sync"],
    "runserver": [*_DJANGO, "--settings", "tests.legacy_ws4redis.runserver_settings"],
    "runserver-nothreading": [
        *_DJANGO,
        "--nothreading",
        "--settings",
        "tests.legacy_ws4redis.runserver_settings",
    ],
}


class Server:
    """A server process that listens."""

    def __init__(self, kind: str, port: int, log: Path) -> None:
        self.kind = kind
        self.port = port
        self.log = log

    def get(self, path: str, headers: dict[str, str] | None = None, method: str = "GET") -> tuple[int, bytes]:
        """An ordinary request: status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, headers={"Connection": "close"} | (headers or {}))
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def control(self, name: str, verb: str, **query: object) -> Any:
        """Ask the echo application something about a connection."""
        status, body = self.get(f"/control/{name}/{verb}?{urlencode(query)}")
        assert status == 200, (status, body)
        return json.loads(body)


@contextlib.contextmanager
def serving(kind: str, folder: Path) -> Iterator[Server]:
    """Run a server for as long as the block."""
    port = _free_port()
    command = [part.format(address=f"127.0.0.1:{port}") for part in COMMANDS[kind]]
    log = folder / f"{kind}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        server = Server(kind, port, log)
        _wait_until_it_answers(server, process)
        yield server
    finally:
        _stop(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_it_answers(server: Server, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            server.control("-", "pid")
        except (OSError, http.client.HTTPException):
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the server does not answer:\n{server.log.read_text()}") from None
            time.sleep(0.02)
        else:
            return


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and its workers, whatever they do."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(PATIENCE)
