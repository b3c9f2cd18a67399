import re
from collections import Counter
from pathlib import Path

import pytest
from rich.progress import TaskID

from contract_tests.__main__ import Run, _unseen
from contract_tests.clauses import CLAUSES, ELSEWHERE, UNCITED
from contract_tests.drivers import DRIVERS
from contract_tests.run import Order

ROOT = Path(__file__).resolve().parents[2]

# `# contract 3.2`, `# contract 3.1, 3.2` at the end of a line or on its own
CITATION = re.compile(r"# contract ((?:\d\.\d)(?:(?:, | and )\d\.\d)*)")


def cited() -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for clauses in CITATION.findall(path.read_text()):
            found.update(re.findall(r"\d\.\d", clauses))
    return found


def test_the_suite_knows_every_clause_of_the_text() -> None:
    text = (ROOT / "docs" / "contract.md").read_text()
    assert re.findall(r"^\*\*(\d\.\d)\*\*", text, re.MULTILINE) == list(CLAUSES)


def test_every_clause_is_cited_by_a_test() -> None:
    # That the state machine looks at each is `test_quick`'s: it counts how often they held.
    assert CLAUSES.keys() - cited() == UNCITED.keys()


def test_no_test_cites_what_is_not_there() -> None:
    assert cited() <= CLAUSES.keys()


@pytest.mark.parametrize("clause", ELSEWHERE)
def test_what_is_looked_at_elsewhere(clause: str) -> None:
    assert clause in CLAUSES
    file, _, name = ELSEWHERE[clause].test.partition("::")
    assert re.search(rf"^ *(?:async )?def {re.escape(name)}\(", (ROOT / file).read_text(), re.MULTILINE)


def test_a_clause_that_nobody_looked_at_fails_a_whole_run() -> None:
    held = Counter({clause: 1 for clause in CLAUSES if clause != "7.2"})
    runs = [
        Run(Order(name, examples=1, steps=20, acts=0, seed=1, directory=""), TaskID(0), held=held) for name in DRIVERS
    ]
    assert _unseen(runs) == ["7.2"]
    assert _unseen(runs[1:]) == []  # who runs one driver knows what is left out
    runs[0].held = Counter({"7.2": 1})
    assert _unseen(runs) == []
