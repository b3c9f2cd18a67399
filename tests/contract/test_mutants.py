"""The mutants fit the product as it is, and a few of them are really killed; all of them are by `make contract`."""

import ast
import subprocess
import sys
from collections import Counter
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from contract_tests.drivers import DRIVERS
from contract_tests.mutants.catalogue import LAYERS, MUTANTS, mutant_named
from contract_tests.mutants.mutant import Edit, Mutant, MutantError, source_of
from contract_tests.mutants.phase import Phase, chosen, judged
from tests.integration.served import clean_environment

ROOT = Path(__file__).resolve().parents[2]
SOURCE = "def one():\n    return 1\n\n\nclass Two:\n    def three(self):\n        return 1 + 1\n"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_it_fits_the_product(mutant: Mutant) -> None:
    for module in mutant.modules:
        source = source_of(module)
        assert ast.dump(ast.parse(mutant.applied(module, source))) != ast.dump(ast.parse(source))


def test_there_are_enough_and_everywhere() -> None:
    assert len(MUTANTS) >= 30
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    layers = Counter(mutant.layer for mutant in MUTANTS)
    assert layers.keys() == LAYERS.keys()
    assert min(layers.values()) >= 8
    assert {driver for mutant in MUTANTS for driver in mutant.drivers} <= DRIVERS.keys()
    assert all(mutant.drivers for mutant in MUTANTS)


@pytest.mark.parametrize(
    ("where", "old", "new", "says"),
    [
        ("m:one", "return 2", "return 3", "0 times"),
        ("m:Two.three", "1", "2", "2 times"),
        ("m:two", "1", "2", "no such function"),
        ("m:Two.four", "1", "2", "no such function"),
        ("m:one", "return 1", "return (", "no Python"),
    ],
)
def test_an_edit_that_does_not_fit_is_an_error(where: str, old: str, new: str, says: str) -> None:
    with pytest.raises(MutantError, match=says):
        Edit(where, old, new).applied(SOURCE)


def test_an_edit_stays_in_its_function() -> None:
    assert Edit("m:one", "1", "2").applied(SOURCE) == SOURCE.replace("return 1\n", "return 2\n")


def test_a_mutant_that_leaves_no_mark_is_an_error() -> None:
    with pytest.raises(MutantError, match="_mutated"):
        Mutant("silent", "core", "nothing", ("legacy",), (Edit("m:one", "1", "2"),))


def test_modules_that_went_are_an_error() -> None:
    with pytest.raises(MutantError, match="no module"):
        source_of("shim.core.nowhere")


def test_a_process_that_has_imported_the_product_cannot_be_made_wrong() -> None:
    program = "import shim.core.names; from contract_tests.mutants.loading import make_wrong; make_wrong()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**clean_environment(), "CONTRACT_MUTANT": "name-collision"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "comes too late: shim.core.names" in done.stderr


def test_which_are_chosen() -> None:
    assert chosen("0") == ()
    assert chosen("1") == MUTANTS
    assert [mutant.name for mutant in chosen("text-as-binary, name-collision")] == ["text-as-binary", "name-collision"]
    with pytest.raises(MutantError, match="text-as-binary"):
        chosen("text-as-binry")


@pytest.mark.parametrize(
    ("clause", "text", "reached", "word"),
    [
        ("4.1", "Broken: …", 2, "killed"),
        ("", "", 2, "survived"),
        ("", "", 0, "not reached"),
        ("4.1", "Broken: …", 0, "not reached"),  # whatever it was that broke, it was not this
        ("", "KeyError: …", 2, "names no clause"),
    ],
)
def test_what_becomes_of_a_mutant(clause: str, text: str, reached: int, word: str) -> None:
    found = {"clause": clause, "text": text, "reached": reached, "lives": 3, "program": ""}
    outcome = judged(mutant_named("text-as-binary"), "legacy", found)
    assert (outcome.word, outcome.is_good) == (word, word == "killed")


def test_the_control_must_find_nothing() -> None:
    nothing = {"clause": "", "text": "", "reached": 0, "lives": 60, "program": ""}
    assert judged(None, "legacy", nothing).is_good
    assert not judged(None, "legacy", {**nothing, "clause": "3.1", "text": "Broken: …"}).is_good


@pytest.mark.servers
@pytest.mark.timeout(300)  # a deadline; it takes a few seconds
def test_some_are_killed(tmp_path: Path) -> None:
    names = ["text-as-binary", "channels-empty-not-sent"]
    mutants = [mutant_named(name) for name in names]
    phase = Phase(mutants, ["legacy", "channels", "memory"], folder=tmp_path, jobs=2, has_control=False)
    phase.carry_out(Console(file=StringIO()))
    assert [outcome for outcome in phase.outcomes if not outcome.is_good] == []
    assert {outcome.clause for outcome in phase.outcomes} <= {"4.1", "3.1", "6.1"}
    assert phase.summary == {"total": 2, "killed": 2}
