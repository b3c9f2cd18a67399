"""The roll-out flag, as this suite sets it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Flag:
    """One state of the flag; `users` are names."""

    name: str
    everyone: bool | None = None
    percent: int = 0
    users: frozenset[str] = frozenset()
