"""What a server process noted, for a test in another process: one file for each name, one JSON object for each line.

Files, because tests take Redis away. A line is one `write` to a descriptor in append mode, so lines of several
processes never mix. A *gate* is a file too: it is open once it is there. Servers that share no directory with the tests
write to Redis instead: `CONTRACT_NOTES = "redis"`.
"""

import json
import os
import re
import socket
from pathlib import Path
from typing import Any, Final, cast

from django.conf import settings

from shim.api import sync_bus
from shim.conf import conf

KEPT_SECONDS: Final = 3_600
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


class RedisNotes(Notes):
    """The same on the project's Redis, for an hour."""

    def __init__(self) -> None:
        """Use the bus of this process."""

    def add(self, name: str, **what: object) -> None:
        """See `Notes`."""
        line = json.dumps({**what, "pid": f"{socket.gethostname()}-{os.getpid()}"})
        sync_bus().execute("RPUSH", self._key(name, "notes"), line)
        sync_bus().execute("EXPIRE", self._key(name, "notes"), KEPT_SECONDS)

    def read(self, name: str, event: str | None = None) -> list[dict[str, Any]]:
        """See `Notes`."""
        lines = cast("list[bytes]", sync_bus().execute("LRANGE", self._key(name, "notes"), 0, -1))
        found = [json.loads(line) for line in lines]
        return [each for each in found if event is None or each["event"] == event]

    def open_gate(self, name: str) -> None:
        """See `Notes`."""
        sync_bus().execute("SET", self._key(name, "gate"), "open", "EX", KEPT_SECONDS)

    def is_open(self, name: str) -> bool:
        """See `Notes`."""
        return sync_bus().execute("EXISTS", self._key(name, "gate")) == 1

    def _key(self, name: str, kind: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(f"a name is 1 to 64 letters, digits, - and _, not {name!r}")
        return f"{conf().prefix}:contract:{kind}:{name}"


def notes() -> Notes:
    """The notes of a server process (`CONTRACT_NOTES`)."""
    place = getattr(settings, "CONTRACT_NOTES", "redis")
    return RedisNotes() if place == "redis" else Notes(Path(place))
