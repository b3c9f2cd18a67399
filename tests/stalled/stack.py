"""The servers: one process of each backend, so that all connections share one memory, and what that memory is."""

from pathlib import Path
from typing import ClassVar, Final

from contract_tests.app.notes import Notes
from demo.browser import Browser
from demo.stack import LEGACY, Stack

_PAGE: Final = 4_096


class OneEach(Stack):
    """The demo's stack with one process of each server.

    Args:
        port_base, directory: as for `Stack`. room: connections that it may have. backlog: REALTIME_MAX_BACKLOG_BYTES.

    Attributes:
        notes: what happened to connections that asked for it to be noted.
    """

    settings: ClassVar[str] = "tests.stalled.settings"

    def __init__(self, port_base: int, *, directory: Path, room: int, backlog: int) -> None:
        env = {"STALLED_BACKLOG": str(backlog), "STALLED_NOTES": str(directory)}
        super().__init__(port_base, directory=directory, env=env)
        self.notes = Notes(directory)
        self._room = room

    def _uwsgi(self) -> list[str]:
        return _told(super()._uwsgi(), {"--processes": "1", "--gevent": str(self._room)})

    def _gunicorn(self) -> list[str]:
        return _told(super()._gunicorn(), {"--workers": "1"})

    def process(self, backend: str) -> int:
        """The id of the process that serves a backend's connections."""
        pid: int = self.health(backend)["pid"]
        return pid

    def turn(self, percent: int) -> None:
        """Turn the flag, as an operator does."""
        Browser(self.ports[LEGACY]).post("/flag/set", percent=percent)


def memory(process: int) -> int:
    """Resident bytes of a process."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * _PAGE


def _told(command: list[str], options: dict[str, str]) -> list[str]:
    command = list(command)
    for option, value in options.items():
        command[command.index(option) + 1] = value
    return command
