"""One program of the stack, with all the processes that it starts: begun, watched, ended. Nothing of it outlives us.

Theory of operation. The program is started by a small shell, the *keeper*, which leads a session and process group of
its own and reads from a pipe that we hold the other end of. When we are gone, whatever ended us (`kill -9` included),
the kernel ends that read, and the keeper kills the whole group: the program, its workers and itself. `PR_SET_PDEATHSIG`
would do this for the program alone, not for its workers, and on Linux alone. That is also why this is not honcho: it
forwards signals, and leaves everything behind when it is killed itself.

A second pipe, which the program and its workers inherit, ends when the last of them has: so we know that all are gone.
"""

import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

KILL_PATIENCE: Final = 5.0  # seconds that a killed process may take to be gone

# $0 is the program. Its pid is said on fd 3, of which the keeper keeps no copy. Group 0 is the keeper's own.
_KEEPER: Final = """\
exec 3>&1 >&2
"$0" "$@" </dev/null &
echo $! >&3
exec 3>&-
read -r line
kill -9 0
"""


class StackError(Exception):
    """The stack cannot run; the message is for the person who started it."""


class Part:
    """One program: uWSGI with its workers, say.

    Args:
        name: for messages.
        command: the program and its arguments.
        env: its whole environment.
        cwd: where it runs.
        log: the file that takes its output; written anew when the part is started for the first time.
    """

    def __init__(self, name: str, command: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path) -> None:
        self.name = name
        self.log = log
        self.pid = 0
        self._command = list(command)
        self._env = dict(env)
        self._cwd = cwd
        self._keeper: subprocess.Popen[bytes] | None = None
        self._hold = -1  # the keeper reads its other end
        self._life = -1  # ends when every process of the part has

    def start(self) -> None:
        """Start the program; returns at once. Running already: nothing happens."""
        if self._keeper is not None:
            return
        reading, self._hold = os.pipe()
        self._life, writing = os.pipe()
        try:
            with self.log.open("ab") as log:
                self._keeper = subprocess.Popen(  # noqa: S603  # our own command lines
                    ["/bin/sh", "-c", _KEEPER, *self._command],
                    stdin=reading,
                    stdout=writing,
                    stderr=log,
                    cwd=self._cwd,
                    env=self._env,
                    start_new_session=True,
                )
        finally:
            os.close(reading)
            os.close(writing)
        said = b""
        while not said.endswith(b"\n") and (more := os.read(self._life, 32)):
            said += more
        self.pid = int(said or b"0")

    @property
    def running(self) -> bool:
        """Whether any process of it lives."""
        return self._keeper is not None and not self._is_gone(0)

    def wait(self, timeout: float) -> bool:
        """Wait for it to end by itself: whether it has, within so many seconds."""
        return self._keeper is None or self._is_gone(timeout)

    def terminate(self) -> None:
        """Ask the program to end (SIGTERM); returns at once."""
        if self.running:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def stop(self, patience: float) -> None:
        """End it: SIGTERM, then SIGKILL to whatever is left after `patience` seconds. Returns when all are gone."""
        if self._keeper is None:
            return
        self.terminate()
        self._is_gone(patience)
        os.close(self._hold)  # the keeper kills what is left
        self._is_gone(KILL_PATIENCE)
        self._keeper.wait(KILL_PATIENCE)
        os.close(self._life)
        self._keeper, self.pid = None, 0

    def tail(self, lines: int = 15) -> str:
        """The last lines of its output."""
        with suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return ""

    def _is_gone(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        ended = select.poll()  # `select.select` knows no descriptor over 1023
        ended.register(self._life, select.POLLIN)
        while True:
            if not ended.poll(max(0.0, deadline - time.monotonic()) * 1_000):
                return False
            if not os.read(self._life, 4096):
                return True
