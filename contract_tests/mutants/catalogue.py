"""All mutants, by name."""

from dataclasses import replace
from difflib import get_close_matches
from typing import Final

from contract_tests.mutants.bus import BUS
from contract_tests.mutants.channels import CHANNELS
from contract_tests.mutants.core import CORE
from contract_tests.mutants.legacy import LEGACY
from contract_tests.mutants.mutant import Mutant, MutantError
from contract_tests.mutants.shared import SHARED

_SCRIPTS: Final = "scripts are Redis's own there: no Lua runs"
_AT_ONCE: Final = "nothing happens between two steps of a connection's coming there"

NOT_IN_MEMORY: Final[dict[str, str]] = {
    "frame-length-off-by-one": "there are no frames on a wire",
    "live-before-past": _AT_ONCE,
    "forgets-what-came-meanwhile": _AT_ONCE,
    "publish-pretends": "it has a driver of its own for Redis",
    **dict.fromkeys(
        (
            "resume-gives-part",
            "history-one-longer",
            "history-one-shorter",
            "retained-twice",
            "expired-retained",
            "oldest-retained",
            "position-without-epoch-check",
        ),
        _SCRIPTS,
    ),
}
"""Mutants of what both backends share that cannot be found in memory, and why."""


def _also_in_memory(mutant: Mutant) -> Mutant:
    return mutant if mutant.name in NOT_IN_MEMORY else replace(mutant, drivers=(*mutant.drivers, "memory"))


MUTANTS: Final[tuple[Mutant, ...]] = (*map(_also_in_memory, (*CORE, *BUS, *SHARED)), *LEGACY, *CHANNELS)

LAYERS: Final = {
    "core": "shim.core",
    "bus": "shim.bus",
    "django": "the Django layer that both backends share",
    "legacy": "the legacy backend's shell",
    "channels": "the channels backend's shell",
}


def mutant_named(name: str) -> Mutant:
    """The mutant of that name.

    Raises:
        MutantError: there is none.
    """
    for mutant in MUTANTS:
        if mutant.name == name:
            return mutant
    close = get_close_matches(name, [mutant.name for mutant in MUTANTS], 5, 0.3)
    raise MutantError(f"there is no mutant {name!r}; close to it: {', '.join(close) or 'none'}")
