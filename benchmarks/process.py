"""A measured server process: started, asked what it has used, ended."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from contract_tests.part import Part

HOST: Final = "127.0.0.1"
START_SECONDS: Final = 60.0
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class Server:
    """One server with one worker, and what that worker has used. A context manager.

    Args:
        name: for messages and its log. command: `{port}` in it is filled in.
    """

    def __init__(self, name: str, command: Sequence[str], *, port: int, env: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.port = port
        root = Path(__file__).resolve().parent.parent
        filled = [word.replace("{port}", str(port)) for word in command]
        self._part = Part(name, filled, env={**os.environ, **env}, cwd=root, log=log)

    def __enter__(self) -> Self:
        self._part.start()
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection((HOST, self.port), 1).close()
            except OSError:
                if not self._part.running or time.monotonic() > deadline:
                    raise RuntimeError(f"{self.name} does not listen:\n{self._part.tail()}") from None
                time.sleep(0.05)
            else:
                return self

    def __exit__(self, *_: object) -> None:
        self._part.terminate()
        self._part.stop(5.0)

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Around what clients of this server do: what goes wrong is told with the end of its log."""
        try:
            yield
        except OSError as error:
            raise RuntimeError(f"{self.name}: {error}\n{self._part.tail()}") from error

    @property
    def worker(self) -> int:
        """The pid of the process that serves: the supervisor's child, or the program itself."""
        pid = self._part.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[-1]) if children else pid

    def cpu(self) -> float:
        """CPU seconds that the worker has used so far, in all its threads."""
        tasks = Path(f"/proc/{self.worker}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    def memory(self) -> int:
        """Bytes that the worker has resident."""
        return int(Path(f"/proc/{self.worker}/statm").read_text().split()[1]) * _PAGE


@contextmanager
def awake() -> Iterator[None]:
    """No core sleeps meanwhile: on each there is a loop that gives way to all else at once. Linux alone can do that."""
    policy = getattr(os, "SCHED_IDLE", None)
    program = (
        "import os, sys; os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0));"
        "os.sched_setaffinity(0, {int(sys.argv[1])})\nwhile os.getppid() == int(sys.argv[2]): sum(range(10_000))"
    )
    loops = [
        subprocess.Popen([sys.executable, "-c", program, str(cpu), str(os.getpid())])  # noqa: S603  # our own
        for cpu in (os.sched_getaffinity(0) if policy is not None else ())
    ]
    try:
        time.sleep(0.2 if loops else 0.0)  # until they run
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def gunicorn(application: str, worker: str) -> list[str]:
    """One worker under gunicorn."""
    return [
        *(sys.executable, "-m", "gunicorn", "--bind", f"{HOST}:{{port}}", "--workers", "1", "--worker-class", worker),
        *("--log-level", "warning", "--no-control-socket", "--backlog", "2048", application),
    ]


def uwsgi(module: str) -> list[str]:
    """One gevent worker of uWSGI."""
    return [
        str(Path(sys.executable).parent / "uwsgi"),
        *("--http-socket", f"{HOST}:{{port}}", "--processes", "1", "--gevent", "10000", "--gevent-early-monkey-patch"),
        *("--module", module, "--need-app", "--disable-logging", "--die-on-term", "--buffer-size", "32768"),
        *("--listen", "100"),
    ]
