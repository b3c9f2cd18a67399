"""The report: it says what broke, what was not looked at, and which mutants live; it needs nothing but itself."""

import re
from datetime import UTC, datetime

from contract_tests.clauses import CLAUSES
from contract_tests.report import Broken, Column, Mutant, Report, page

AT = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
HOSTILE = "</pre><script>alert('&')</script>"


def column(driver: str = "legacy", broken: Broken | None = None) -> Column:
    return Column(driver, 40, 800, 4.0, dict.fromkeys(CLAUSES, 7), broken)


def cell(html: str, clause: str) -> str:
    found = re.search(rf'<tr><th scope="row">{re.escape(clause)}</th>.*?</tr>', html)
    assert found is not None
    return found[0]


def test_every_clause_has_its_row() -> None:
    html = page(Report("quick", 1, AT, [column()]))
    for clause in CLAUSES:
        assert ">7</td>" in cell(html, clause)
    assert "The contract holds on legacy" in html
    assert f"<b>{len(CLAUSES)} of {len(CLAUSES)}</b>" in html


def test_what_broke_is_said_with_its_program() -> None:
    report = Report("ci", 1, AT, [column(), column("channels", Broken("5.3", HOSTILE, HOSTILE))])
    html = page(report)
    assert not report.is_good
    assert "clause 5.3 on channels" in html
    assert "broken</td>" in cell(html, "5.3")
    assert "broken</td>" not in cell(html, "5.2")
    assert html.count("<script>") == 1  # ours: what servers said is text
    assert "&lt;script&gt;alert(&#x27;&amp;&#x27;)" in html


def test_a_clause_that_nobody_looked_at_is_a_dash() -> None:
    html = page(Report("ci", 1, AT, [Column("legacy", 1, 1, 1.0, {})]))
    assert ">–</td>" in cell(html, "3.1")


def test_a_mutant_that_lives_makes_the_run_bad_and_stands_first() -> None:
    mutants = [
        Mutant("a-killed", "core", "doubles", "killed", "3.1", "legacy", 2),
        Mutant("a-killed", "core", "doubles", "killed", "3.1", "channels", 3),
        Mutant("z-alive", "core", "nothing wrong", "survived"),
        Mutant("z-alive", "core", "nothing wrong", "killed", "3.1", "legacy", 1),
    ]
    report = Report("ci", 1, AT, [column()], mutants)
    html = page(report)
    assert not report.is_good
    assert html.index("z-alive") < html.index("a-killed")
    assert "<b>1 of 2</b> mutants killed" in html


def test_it_needs_nothing_but_itself() -> None:
    html = page(Report("ci", 1, AT, [column()], environment={"Python": "3.12"}))
    assert not re.search(r"https?://|src=|<link|@import|url\(", html)
