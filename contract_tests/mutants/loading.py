"""Making a process wrong: its imports of the product's modules get a mutant's edits, and marks tell that it happened.

Only programs of this suite do it, and only when `CONTRACT_MUTANT` names a mutant: the servers' entry points in this
package, and the process that judges them, which publishes. It comes before anything of the product is imported.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Final

from contract_tests.mutants.catalogue import mutant_named
from contract_tests.mutants.mutant import MARK, Mutant, MutantError

MUTANT: Final = "CONTRACT_MUTANT"
"""Variable of the environment: the mutant's name; nothing is done without it."""

MARKS: Final = "CONTRACT_MUTANT_MARKS"
"""Variable of the environment: a directory. `loaded.<pid>`: a module was changed; `reached.<pid>`: it mattered."""


def make_wrong() -> None:
    """Make this process wrong, if the environment says so.

    Raises:
        MutantError: there is no such mutant, or the product was imported before.
    """
    name = os.environ.get(MUTANT)
    if not name:
        return
    mutant = mutant_named(name)
    if early := [module for module in mutant.modules if module in sys.modules]:
        raise MutantError(f"{name} comes too late: {', '.join(early)} was imported before")
    sys.meta_path.insert(0, _Finder(mutant, Path(os.environ[MARKS])))


def marked(marks: Path, what: str) -> set[int]:
    """The processes that left a mark: `loaded` or `reached`."""
    return {int(path.suffix[1:]) for path in marks.glob(f"{what}.*")}


class _Finder(MetaPathFinder):
    """Finds a mutant's modules as Python does, and has them loaded by us."""

    def __init__(self, mutant: Mutant, marks: Path) -> None:
        self._mutant = mutant
        self._marks = marks

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._mutant.modules:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin is None:
            raise MutantError(f"the mutant {self._mutant.name} does not fit any more: there is no module {fullname}")
        spec.loader = _Loader(fullname, spec.origin, self._mutant, self._marks)
        return spec


class _Loader(SourceFileLoader):
    """Loads a module from its text with a mutant's edits in it; no compiled file is read or written."""

    def __init__(self, fullname: str, path: str, mutant: Mutant, marks: Path) -> None:
        super().__init__(fullname, path)
        self._mutant = mutant
        self._marks = marks
        self._left: set[tuple[str, int]] = set()  # what was left already, by this process or one that it comes from

    def get_code(self, fullname: str) -> CodeType:
        source = self._mutant.applied(fullname, self.get_data(self.path).decode())
        code: CodeType = compile(source, self.path, "exec", dont_inherit=True)
        return code

    def exec_module(self, module: ModuleType) -> None:
        vars(module)[MARK] = self._mutated
        super().exec_module(module)
        self._leave("loaded")

    def _mutated(self, value: Any = True) -> Any:
        self._leave("reached")
        return value

    def _leave(self, what: str) -> None:
        mark = (what, os.getpid())
        if mark in self._left:
            return
        self._left.add(mark)
        with suppress(FileExistsError):
            os.close(os.open(self._marks / f"{what}.{mark[1]}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
