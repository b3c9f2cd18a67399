"""The servers of a load run, what they have used of the machine, and what a handshake costs here."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

from demo.browser import Browser
from demo.stack import LEGACY, ROOT, Stack
from tests.integration.served import descendants

_TICKS: Final = os.sysconf("SC_CLK_TCK")


class LoadStack(Stack):
    """The demo's stack with room for many connections, and a pace.

    Args:
        port_base, directory: as for `Stack`. room: connections that one process may have. pace: of `REALTIME_PACE`.
    """

    settings: ClassVar[str] = "tests.load.settings"

    def __init__(self, port_base: int, *, directory: Path, room: int, pace: Mapping[str, Any]) -> None:
        super().__init__(port_base, directory=directory, env={"LOAD_PACE": json.dumps(pace)})
        self._room = room

    def _uwsgi(self) -> list[str]:
        command = super()._uwsgi()
        command[command.index("--gevent") + 1] = str(self._room)
        return command

    def turn(self, percent: int) -> None:
        """Turn the flag, as an operator does."""
        Browser(self.ports[LEGACY]).post("/flag/set", percent=percent)

    def hurry(self) -> None:
        """Tell moves that are under way to hurry, as an operator does."""
        command = [sys.executable, "manage.py", "realtime", "hurry"]
        subprocess.run(command, cwd=ROOT, env=self.process_env, stdout=subprocess.DEVNULL, check=True, timeout=60)

    def cpu_seconds(self) -> float:
        """What all processes of the stack have used so far."""
        pids = {pid for part in self.parts.values() for pid in descendants(part.pid)}
        return sum(_cpu_seconds(pid) for pid in pids)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS  # utime, stime


def busy_seconds() -> float:
    """What everything on this machine has used so far, idle and waiting time left out."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / _TICKS
