"""What a server process noted, for a test in another process: one file for each name, one JSON object for each line.

Files and not Redis, because tests take Redis away. A line is one `write` to a descriptor in append mode, so lines of
several processes never mix. A *gate* is a file too: it is open once it is there.
"""

import json
import os
import re
from pathlib import Path
from typing import Any, Final

from django.conf import settings

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Notes:
    """The notes in one directory.

    Args:
        directory: shared by servers and tests; it must be there.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def add(self, name: str, **what: object) -> None:
        """Write something down under a name, with the pid of this process."""
        line = json.dumps({**what, "pid": os.getpid()}) + "\n"
        descriptor = os.open(self._path(name, "jsonl"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def read(self, name: str, event: str | None = None) -> list[dict[str, Any]]:
        """What was written down under a name so far, in order; with `event`, only the lines of that event."""
        try:
            lines = self._path(name, "jsonl").read_text().splitlines()
        except FileNotFoundError:
            return []
        found = [json.loads(line) for line in lines]
        return [each for each in found if event is None or each["event"] == event]

    def open_gate(self, name: str) -> None:
        """Let everybody through who waits at a gate, and whoever comes later."""
        self._path(name, "gate").touch()

    def is_open(self, name: str) -> bool:
        """Whether a gate is open."""
        return self._path(name, "gate").exists()

    def _path(self, name: str, suffix: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError(f"a name is 1 to 64 letters, digits, - and _, not {name!r}")
        return self._directory / f"{name}.{suffix}"


def notes() -> Notes:
    """The notes of a server process (`CONTRACT_NOTES`)."""
    return Notes(Path(getattr(settings, "CONTRACT_NOTES")))  # noqa: B009  # not every project has it
