import re
from pathlib import Path

from contract_tests.clauses import CLAUSES, ELSEWHERE

ROOT = Path(__file__).resolve().parents[2]


def test_the_suite_knows_every_clause_of_the_text() -> None:
    text = (ROOT / "docs" / "contract.md").read_text()
    assert re.findall(r"^\*\*(\d\.\d)\*\*", text, re.MULTILINE) == list(CLAUSES)


def test_reasons_are_of_clauses() -> None:
    assert ELSEWHERE.keys() <= CLAUSES.keys()
