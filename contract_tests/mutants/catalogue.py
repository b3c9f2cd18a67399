"""All mutants, by name."""

from difflib import get_close_matches
from typing import Final

from contract_tests.mutants.bus import BUS
from contract_tests.mutants.channels import CHANNELS
from contract_tests.mutants.core import CORE
from contract_tests.mutants.legacy import LEGACY
from contract_tests.mutants.mutant import Mutant, MutantError
from contract_tests.mutants.shared import SHARED

MUTANTS: Final[tuple[Mutant, ...]] = (*CORE, *BUS, *SHARED, *LEGACY, *CHANNELS)

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
