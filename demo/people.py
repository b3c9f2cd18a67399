"""Who is in the demo: interpreters with their languages, callers, and an operator."""

from typing import Final, NamedTuple

INTERPRETERS: Final = "interpreters"
CALLERS: Final = "callers"
LANGUAGES: Final = ("Español", "普通话", "العربية")
OPERATOR: Final = "operator"


class Person(NamedTuple):
    """A demo user. Groups are what realtime messages are addressed to: a language is one."""

    name: str
    groups: tuple[str, ...]


_INTERPRETERS: Final = ("ana", "luis", "mei", "omar", "inés", "chen", "layla", "rosa")
_CALLERS: Final = ("ben", "carla", "dirk", "eva", "finn", "greta", "hugo", "ida")

PEOPLE: Final = (
    *(Person(name, (INTERPRETERS, LANGUAGES[i % len(LANGUAGES)])) for i, name in enumerate(_INTERPRETERS)),
    *(Person(name, (CALLERS,)) for name in _CALLERS),
)
