"""A mutant: one mistake that a real implementation makes, as a few edits of the product's source.

Theory of operation. An edit names a function (or a constant) of the product, a piece of its text and another text in
its place; so a mutant reads like the diff of a careless commit, and the product has no hook for it. The edit is made
when a process imports the module (`contract_tests.mutants.loading`), on the text alone: nothing is written to disk.
What an edit looks for must be there exactly once, or it is an error: a mutant that mutates nothing would look like a
suite that finds nothing. The new text calls `_mutated(…)`, which gives back its argument and leaves a mark: so the run
knows that the mistake was really made, in which process.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

MARK: Final = "_mutated"
"""The name of the function that every mutant calls where it makes its mistake."""

ROOT: Final = Path(__file__).resolve().parents[2]

type Step = tuple[str, Mapping[str, Any]]


class MutantError(Exception):
    """A mutant does not fit the product any more; the message says which and where."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One text in place of another.

    Args:
        where: `module:name`, the name of a function, `Class.method` or constant of the module.
        old: what is there, exactly once; lines as in the file, without the first one's indent.
        new: what stands there instead.
    """

    where: str
    old: str
    new: str

    @property
    def module(self) -> str:
        """The module that is edited."""
        return self.where.partition(":")[0]

    def applied(self, source: str) -> str:
        """The module's text with the mistake in it.

        Raises:
            MutantError: what is edited is not there, or not once, or the result is no Python.
        """
        start, end = self._span(source)
        scope = source[start:end]
        if (found := scope.count(self.old)) != 1:
            raise MutantError(f"{self.where} has {found} times, not once: {self.old!r}")
        mutated = source[:start] + scope.replace(self.old, self.new) + source[end:]
        try:
            ast.parse(mutated)
        except SyntaxError as error:
            raise MutantError(f"{self.where} is no Python after the edit ({error}): {self.new!r}") from None
        return mutated

    def _span(self, source: str) -> tuple[int, int]:
        node: ast.AST = ast.parse(source)
        for part in self.where.partition(":")[2].split("."):
            body: Sequence[ast.stmt] = getattr(node, "body", ())
            found = [each for each in body if part in _names(each)]
            if len(found) != 1:
                raise MutantError(f"{self.where}: there is no such function or constant any more")
            node = found[0]
        assert isinstance(node, ast.stmt)  # noqa: S101  # for the type checker: split() gives one part at least
        lines = source.splitlines(keepends=True)
        end = node.end_lineno or node.lineno
        return sum(map(len, lines[: node.lineno - 1])), sum(map(len, lines[:end]))


@dataclass(frozen=True, slots=True, eq=False)
class Mutant:
    """A seeded mistake.

    Args:
        name: short, words with hyphens; for `MUTANTS=` and the table.
        layer: where it is: core, bus, django, legacy or channels.
        what: the mistake in a few words.
        drivers: on each of these the suite must find it.
        edits: what makes it.
        start: a life that leads where the mistake shows, lived before the random ones: rules and their arguments. For
            what chance would take long to find.
    """

    name: str
    layer: str
    what: str
    drivers: tuple[str, ...]
    edits: tuple[Edit, ...]
    start: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        if not any(f"{MARK}(" in edit.new for edit in self.edits):
            raise MutantError(f"{self.name}: no edit calls {MARK}(), so nobody would know whether it was reached")

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that it edits."""
        return tuple(dict.fromkeys(edit.module for edit in self.edits))

    def applied(self, module: str, source: str) -> str:
        """A module's text with all of the mutant's edits in it.

        Raises:
            MutantError: see `Edit.applied`.
        """
        for edit in self.edits:
            if edit.module == module:
                try:
                    source = edit.applied(source)
                except MutantError as error:
                    raise MutantError(f"the mutant {self.name} does not fit any more: {error}") from None
        return source


def source_of(module: str) -> str:
    """The text of one of the product's modules, without importing it.

    Raises:
        MutantError: there is no such module any more.
    """
    try:
        return ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text()
    except FileNotFoundError:
        raise MutantError(f"there is no module {module} any more") from None


def _names(statement: ast.stmt) -> Iterator[str]:
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Assign(targets=targets):
            yield from (target.id for target in targets if isinstance(target, ast.Name))
        case ast.AnnAssign(target=ast.Name(id=name)):
            yield name
