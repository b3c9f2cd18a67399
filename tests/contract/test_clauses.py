import re
from pathlib import Path

import pytest

from contract_tests.clauses import CLAUSES, ELSEWHERE, UNCITED

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
