"""Log lines for what may happen thousands of times a second, told once a minute."""

from threading import Lock
from time import monotonic
from typing import Final

QUIET: Final = 60.0
"""Seconds between two complaints of the same kind."""


class Complaints:
    """Lets each kind of complaint into the log once in `QUIET` seconds. Thread-safe.

    Kinds are words of the code, never data: they are remembered for ever.
    """

    def __init__(self) -> None:
        self._next: dict[str, float] = {}
        self._lock = Lock()

    def allow(self, kind: str) -> bool:
        """Whether this one may be logged."""
        now = monotonic()
        with self._lock:
            if now < self._next.get(kind, now):
                return False
            self._next[kind] = now + QUIET
            return True
