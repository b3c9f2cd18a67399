"""Beginnings of lives that lead where a mutant shows."""

from collections.abc import Sequence
from typing import Any, Final

from contract_tests.mutants.mutant import Step

ANA: Final = 0  # people by number, as the state machine counts them: two with names …
BEN: Final = 1
NOBODY: Final = 4  # … and one without name, session or cookie

EVERYONE: Final = 0
"""The first topic: everyone, in the first facility."""

NOT_KEPT: Final = (0, 300.0)


def begin(*crowd: tuple[int, bool], names: Sequence[str] = ("a", "b", "c"), place: int = 0) -> Step:
    """People come: who, and whether with v1."""
    return ("begin", {"names": list(names), "crowd": [(who, place, v1, 0) for who, v1 in crowd]})


def step(rule: str, /, **arguments: Any) -> Step:
    """A rule and its arguments."""
    return (rule, arguments)


def publish(value: Any = "x", *, to: int = EVERYONE, kept: Any = None, how: str = "sync") -> Step:
    """Somebody publishes something."""
    return step("publish", to=to, value=value, kept=kept, how=how)


def resume(*, back: int = 0, forged: str | None = None, meanwhile: Sequence[Any] = ()) -> Step:
    """The first v1 client comes back."""
    return step("resume", pick=0, back=back, forged=forged, was="own", meanwhile=meanwhile)


def flip(*, everyone: bool | None = None, percent: int = 0, listed: Sequence[int] = ()) -> Step:
    """The flag changes."""
    return step("flip", everyone=everyone, percent=percent, listed=set(listed), messages=[])


def asked() -> list[Step]:
    """Everybody asks where to go."""
    return [step("ask_where", who=who, place=place) for who in range(4) for place in range(2)]


def connect(who: int, *, facility: int = 0) -> Step:
    """Somebody connects, raw."""
    return step("connect", who=who, place=0, v1=False, facility=facility, narrow=[], listen=[], echo=False)


CAME_LATER: Final = connect(NOBODY)
"""One more raw client, when there is a past."""

ONE_OF_EACH: Final = begin((NOBODY, False), (NOBODY, True))
"""A raw client and a v1 client, neither signed in."""
