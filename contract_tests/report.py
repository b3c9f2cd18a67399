"""The report of a run as one HTML page: the matrix clause x driver, what failed, and which mutants were killed.

The page needs nothing but itself: it can be kept as a build's artefact and opened years later.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from html import escape
from math import log10
from typing import Final

from contract_tests.clauses import CLAUSES, ELSEWHERE

CHAPTERS: Final = {
    "1": "Opening",
    "2": "Subscription point",
    "3": "Delivery and order",
    "4": "Payload",
    "5": "The past",
    "6": "Coming in",
    "7": "Staying alive",
    "8": "Flips and moves",
    "9": "Stopping",
}
DEEPEST: Final = 5.0  # times that a clause held, as a power of ten: its cell has the deepest colour from here on


@dataclass(frozen=True, slots=True)
class Broken:
    """What a driver broke: the clause ("" where it is not known), the words, and the shrunk program as a test."""

    clause: str
    text: str
    program: str


@dataclass(frozen=True, slots=True)
class Column:
    """One driver's run: examples, steps, seconds, how often each clause was looked at and held, and what it lacks."""

    driver: str
    examples: int
    steps: int
    seconds: float
    held: Mapping[str, int]
    broken: Broken | None = None
    missing: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Mutant:
    """One mistake that was put in on purpose, and the clause whose check found it.

    Attributes:
        outcome: `killed`, or anything else where it was not.
    """

    name: str
    layer: str
    mistake: str
    outcome: str
    clause: str = ""
    driver: str = ""
    examples: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """All that the page says.

    Attributes:
        environment: versions and the like, in the order in which they are shown.
    """

    profile: str
    seed: int
    at: datetime
    columns: Sequence[Column]
    mutants: Sequence[Mutant] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        """Whether nothing broke and no mutant lives."""
        return not any(column.broken for column in self.columns) and all(
            mutant.outcome == "killed" for mutant in self.mutants
        )


def page(report: Report) -> str:
    """The whole HTML document."""
    verdict = "The contract holds" if report.is_good else "The contract is broken"
    if report.is_good:
        verdict += f" on {_and(column.driver for column in report.columns)}"
    covered = {clause for column in report.columns for clause, times in column.held.items() if times}
    figures = [
        (f"{sum(column.examples for column in report.columns):,}", "examples"),
        (f"{sum(column.steps for column in report.columns):,}", "steps"),
        (f"{len(covered & CLAUSES.keys())} of {len(CLAUSES)}", "clauses looked at"),
        (f"{sum(bool(column.broken) for column in report.columns)}", "drivers that failed"),
    ]
    if report.mutants:
        names = {mutant.name for mutant in report.mutants}
        alive = {mutant.name for mutant in report.mutants if mutant.outcome != "killed"}  # on one of its drivers
        figures.append((f"{len(names - alive)} of {len(names)}", "mutants killed"))
    parts = [
        f'<header class="{"good" if report.is_good else "bad"}">',
        f'<p class="kicker">contract run, profile {escape(report.profile)}, seed {report.seed}</p>',
        f"<h1>{escape(verdict)}</h1>",
        '<ul class="figures">',
        *(f"<li><b>{escape(number)}</b> {escape(word)}</li>" for number, word in figures),
        "</ul></header>",
        *_failures(report.columns),
        _matrix(report.columns),
        *_missing(report.columns),
        *_mutants(report.mutants),
        _environment(report),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(verdict)}</title><style>{_STYLE}</style></head><body><main>"
        + "\n".join(parts)
        + f"</main><script>{_SCRIPT}</script></body></html>\n"
    )


def _failures(columns: Sequence[Column]) -> Iterable[str]:
    for column in columns:
        if (broken := column.broken) is not None:
            where = f"clause {broken.clause} on " if broken.clause else ""
            yield (
                f'<section class="failure"><h2>Broken: {escape(where + column.driver)}</h2>'
                f"<p>{escape(broken.text)}</p>"
                '<div class="code"><button type="button">copy</button>'
                f"<pre>{escape(broken.program)}</pre></div></section>"
            )


def _missing(columns: Sequence[Column]) -> Iterable[str]:
    for column in columns:
        for what, why in column.missing.items():
            yield f'<p class="note"><b>{escape(column.driver)}</b> has no {escape(what)}: {escape(why)}.</p>'


def _matrix(columns: Sequence[Column]) -> str:
    heads = "".join(
        f'<th scope="col">{escape(column.driver)}<small>{column.examples:,} examples<br>{column.steps:,} steps<br>'
        f"{1000 * column.seconds / max(column.steps, 1):.1f} ms a step</small></th>"
        for column in columns
    )
    rows = []
    chapter = ""
    for clause, what in CLAUSES.items():
        number = clause.partition(".")[0]
        if number != chapter:
            chapter = number
            title = escape(f"{number} {CHAPTERS.get(number, '')}")
            rows.append(f'<tr class="chapter"><th colspan="{len(columns) + 2}" scope="colgroup">{title}</th></tr>')
        note = f'<span class="note">{escape(ELSEWHERE[clause].what)} elsewhere</span>' if clause in ELSEWHERE else ""
        cells = "".join(_cell(clause, column) for column in columns)
        rows.append(f'<tr><th scope="row">{clause}</th><td class="what">{escape(what)}{note}</td>{cells}</tr>')
    return (
        '<section><h2>Clauses</h2><p class="legend">How often each clause was looked at and held. A deeper colour is '
        "ten times as often; a dash is a clause that this driver's lives do not touch.</p>"
        f'<div class="wide"><table class="matrix"><thead><tr><th></th><th></th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _cell(clause: str, column: Column) -> str:
    if column.broken is not None and column.broken.clause == clause:
        return '<td class="cell broken">broken</td>'
    times = column.held.get(clause, 0)
    if not times:
        return '<td class="cell none">–</td>'
    depth = min(1.0, (1 + log10(times)) / (1 + DEEPEST))
    return f'<td class="cell" style="--depth:{depth:.2f}">{times:,}</td>'


def _mutants(mutants: Sequence[Mutant]) -> Iterable[str]:
    if not mutants:
        return
    yield (
        '<section><h2>Mutants</h2><p class="legend">Mistakes that real implementations make, put into the servers on '
        "purpose. The suite has to find every one.</p>"
        '<div class="wide"><table class="mutants"><thead><tr><th>layer</th><th>mistake</th><th>found by</th>'
        "<th>examples</th><th></th></tr></thead><tbody>"
    )
    for mutant in sorted(mutants, key=lambda each: (each.outcome == "killed", each.layer, each.name)):
        state = "killed" if mutant.outcome == "killed" else "alive"
        where = f"{mutant.clause} <small>{escape(mutant.driver)}</small>" if mutant.clause else ""
        yield (
            f'<tr class="{state}"><td>{escape(mutant.layer)}</td>'
            f'<td class="what">{escape(mutant.mistake)}<span class="note">{escape(mutant.name)}</span></td>'
            f"<td>{where}</td><td>{mutant.examples or ''}</td><td>{escape(mutant.outcome)}</td></tr>"
        )
    yield "</tbody></table></div></section>"


def _environment(report: Report) -> str:
    facts = {"run": f"{report.at:%Y-%m-%d %H:%M} UTC", **report.environment}
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    return f"<footer><dl>{rows}</dl></footer>"


def _and(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5d6878; --line: #dfe4ea; --paper: #ffffff; --sunk: #f5f7f9;
  --good: #0f7b55; --bad: #b3261e; --cell: 15 123 85; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7ebf0; --soft: #9aa6b5; --line: #2c3542; --paper: #12171e;
  --sunk: #1a212a; --good: #4ec69a; --bad: #ff8a80; --cell: 78 198 154; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
header { border-left: .35rem solid var(--good); padding-left: 1.25rem; margin-bottom: 2.5rem; }
header.bad { border-color: var(--bad); }
.kicker { margin: 0; color: var(--soft); }
h1 { margin: .1rem 0 .9rem; font-size: clamp(1.6rem, 4vw, 2.3rem); line-height: 1.15; letter-spacing: -.02em; }
header.good h1 { color: var(--good); } header.bad h1 { color: var(--bad); }
h2 { margin: 2.5rem 0 .3rem; font-size: 1.15rem; }
.figures { display: flex; flex-wrap: wrap; gap: .4rem 1.8rem; margin: 0; padding: 0; list-style: none;
  color: var(--soft); }
.figures b { color: var(--ink); font-size: 1.15rem; font-variant-numeric: tabular-nums; }
.legend { margin: 0 0 1rem; color: var(--soft); max-width: 44rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
thead th { text-align: left; font-weight: 600; vertical-align: bottom; padding: .3rem .6rem; white-space: nowrap; }
thead small { display: block; color: var(--soft); font-weight: 400; line-height: 1.35; }
tbody th { text-align: left; font-weight: 600; padding: .38rem .6rem .38rem 0; font-variant-numeric: tabular-nums; }
td { padding: .38rem .6rem; border-top: 1px solid var(--line); vertical-align: top; }
tr.chapter th { padding: 1.1rem 0 .3rem; color: var(--soft); font-weight: 500; }
tbody tr:not(.chapter) > th { border-top: 1px solid var(--line); vertical-align: top; }
.what { min-width: 17rem; }
.note { display: block; color: var(--soft); font-size: .86rem; }
.matrix .cell { text-align: right; font-variant-numeric: tabular-nums; min-width: 6.2rem;
  background: rgb(var(--cell) / calc(var(--depth, 0) * .38)); }
.matrix .none { color: var(--soft); }
.matrix .broken { background: var(--bad); color: var(--paper); font-weight: 700; }
.mutants td:nth-child(4) { text-align: right; font-variant-numeric: tabular-nums; }
.mutants td:last-child { color: var(--good); font-weight: 600; white-space: nowrap; }
.mutants .alive td:last-child { color: var(--bad); }
.mutants .alive td { background: color-mix(in srgb, var(--bad) 10%, transparent); }
.failure p { overflow-wrap: anywhere; }
.failure h2 { color: var(--bad); }
.code { position: relative; }
pre { overflow-x: auto; padding: 1rem; margin: 0; border-radius: .5rem; background: var(--sunk);
  border: 1px solid var(--line); font: 13px/1.5 ui-monospace, monospace; }
button { position: absolute; top: .6rem; right: .6rem; font: inherit; font-size: .85rem; padding: .15rem .7rem;
  border: 1px solid var(--line); border-radius: .35rem; background: var(--paper); color: var(--ink); cursor: pointer; }
footer { margin-top: 3rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--soft); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: 0; }
dd { margin: 0; color: var(--ink); overflow-wrap: anywhere; }
"""

_SCRIPT: Final = """
for (const button of document.querySelectorAll(".code button")) {
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.nextElementSibling.textContent);
    button.textContent = "copied";
  });
}
"""
