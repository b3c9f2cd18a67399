"""An import-linter contract that says what a package may import; everything else is a violation.

import-linter's own contracts name what is forbidden, so a package that nobody thought of would pass.
Only direct imports count: what an allowed module imports in its turn is that module's own contract.
"""

import sys
from collections.abc import Iterable
from typing import Any

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output

STANDARD_LIBRARY = "standard-library"
"""Stands for every module of the standard library in `allowed_modules`."""


class OnlyContract(Contract):
    """The source modules, and what is inside them, import themselves and the allowed modules and no other.

    Configuration options:
        source_modules: packages to check.
        allowed_modules: modules and packages, ours or others'; `standard-library` stands for all of it.
        exempt_modules: parts of the source modules that have a contract of their own. (Optional.)
    """

    type_name = "only"

    source_modules = fields.SetField(subfield=fields.StringField())
    allowed_modules = fields.SetField(subfield=fields.StringField())
    exempt_modules = fields.SetField(subfield=fields.StringField(), required=False, default=set())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Finds the direct imports that no entry allows."""
        sources: Any = self.source_modules
        allowed: Any = self.allowed_modules
        exempt: Any = self.exempt_modules
        violations = [
            {"importer": importer, "imported": imported, "lines": _lines(graph, importer, imported)}
            for source in sorted(sources)
            for importer in sorted({source} | graph.find_descendants(source))
            if not _is_inside(importer, exempt)
            for imported in sorted(graph.find_modules_directly_imported_by(importer))
            if not _is_inside(imported, sources) and not _is_allowed(imported, allowed)
        ]
        return ContractCheck(kept=not violations, metadata={"violations": violations})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Prints one line for each import that is not allowed."""
        for violation in check.metadata["violations"]:
            output.print_error(
                f"{violation['importer']} may not import {violation['imported']} (line {violation['lines']})",
                bold=False,
            )
        output.new_line()


def _is_inside(module: str, packages: Iterable[str]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def _is_allowed(module: str, allowed: Iterable[str]) -> bool:
    if STANDARD_LIBRARY in allowed and module.partition(".")[0] in sys.stdlib_module_names:
        return True
    return _is_inside(module, allowed)


def _lines(graph: ImportGraph, importer: str, imported: str) -> str:
    details = graph.get_import_details(importer=importer, imported=imported)
    return ", ".join(str(detail["line_number"]) for detail in details)
